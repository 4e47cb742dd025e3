// diffusion/diffusion-snr: a schedule for small pictures, used on pictures s times larger.
(() => {
  const { slider, choice, number, spaced, spacedLog } = kexuePlay;
  const TIMES = spaced(0.002, 0.998, 250);

  const cosine = (t) => -2 * Math.log(Math.tan((Math.PI * t) / 2));
  /** By how much a schedule multiplies the noise at time t, for the factor k. */
  const GAINS = { "one shift": (k) => k, interpolated: (k, t) => k ** t, swapped: (k, t) => k ** (1 - t) };
  /** Share of [0, 1] in which |−2 ln tan(πt/2) + 2 ln s| ≤ a. */
  const useful = (s, a) => (2 / Math.PI) * (Math.atan(s * Math.exp(a / 2)) - Math.atan(s * Math.exp(-a / 2)));

  kexuePlay("diffusion-snr", {
    title: "Log SNR of coarse content",
    controls: [
      slider("s", "picture, times larger: s", 1, 64, 16, { log: true, step: Math.log10(2) / 4 }),
      slider("k", "noise, times larger: k", 1, 64, 1, { log: true, step: Math.log10(2) / 4 }),
      slider("a", "undecided while |log SNR| ≤ a", 1, 8, 4, { step: 0.5 }),
      choice("kind", "schedule", Object.keys(GAINS), "one shift"),
    ],
    compute({ s, k, a, kind }) {
      const own = TIMES.map((t) => [t, cosine(t) - 2 * Math.log(GAINS[kind](k, t))]);
      const coarse = own.map(([t, L]) => [t, L + 2 * Math.log(s)]);
      const share = kind === "one shift" ? useful(s / k, a) : coarse.filter(([, L]) => Math.abs(L) <= a).length / TIMES.length;
      return { own, coarse, share, passes: (2 / Math.PI) * Math.atan(s / (kind === "one shift" ? k : 1)) };
    },
    show({ s, k, a, kind }, { own, coarse, share, passes }) {
      const one = kind === "one shift";
      return {
        text: `Pictures ${number(s)} times larger, noise ${one ? `${number(k)} times larger` : `${kind} up to ${number(k)} times`}: coarse content is undecided for ` +
          `${number(100 * share, 3)}% of the training` + (one ? `, and passes SNR 1 at t* = ${number(passes)}.` : "."),
        panels: [
          {
            title: "What the noise means for coarse content",
            x: { label: "t (0: data, 1: noise)", min: 0, max: 1 },
            y: { min: -16, max: 16 },
            bands: [{ y: [-a, a], color: 2, name: "undecided" }],
            lines: [
              { points: own, color: 4, dash: "dash", name: "log SNR of a pixel" },
              { points: coarse, color: 0, name: "log SNR after pooling s × s" },
            ],
            rules: [{ y: 0, dash: "solid" }],
          },
          {
            title: "Useful share of the training, one shift",
            x: { label: "s/k (log axis)", min: 1 / 64, max: 64, log: true, marks: [[1 / 64, "1/64"], [1 / 8, "1/8"], [1, "1"], [8, "8"], [64, "64"]] },
            y: { min: 0, max: 1 },
            lines: [{ points: spacedLog(1 / 64, 64, 80).map((x) => [x, useful(x, a)]), color: 0, name: "F(s/k, a)" }],
            dots: [{ points: [[Math.min(64, Math.max(1 / 64, s / k)), share]], color: 1, size: 6, name: one ? "here" : `here, ${kind}` }],
          },
        ],
      };
    },
  });
})();
