// diffusion/ddpm-vae: what a noise schedule leaves of the data, and how well its end fits the prior.
(() => {
  const { slider, choice, number, range } = kexuePlay;

  /** β_t² of step t = 1..T. */
  const RULES = {
    "the post's": (t, T, last) => (last * t) / T,
    "the paper's": (t, T, last) => 1e-4 + ((last - 1e-4) * (t - 1)) / (T - 1),
  };

  kexuePlay("ddpm-vae", {
    title: "Noise schedules",
    controls: [
      choice("rule", "schedule", Object.keys(RULES), "the post's"),
      slider("T", "steps T", 10, 1000, 1000, { log: true, step: 0.02, whole: true }),
      slider("last", "last β²", 1e-3, 0.5, 0.02, { log: true, step: 0.01 }),
    ],
    compute({ rule, T, last }) {
      let log = 0;
      const logs = range(T, (i) => (log += 0.5 * Math.log1p(-RULES[rule](i + 1, T, last))));
      const square = Math.exp(2 * log);
      return {
        signal: [[0, 1], ...logs.map((a, i) => [(i + 1) / T, Math.exp(a)])],
        logSnr: logs.map((a, i) => [(i + 1) / T, 2 * a - Math.log(-Math.expm1(2 * a))]),
        end: square, // ᾱ_T²
        price: -Math.log1p(-square) / 2, // KL(p(x_T | x_0) ‖ N(0, 1)) at x_0 = 1, where ᾱ² x_0² = ᾱ²
        bound: range(61, (i) => [i / 60, Math.exp((-last * (i / 60) * ((T * i) / 60 + 1)) / 4)]),
      };
    },
    show({ rule, T, last }, { signal, logSnr, end, price, bound }) {
      const posts = rule === "the post's";
      return {
        text: `Schedule of ${rule.replace("'s", "")}, T = ${number(T, 4)}, last β² = ${number(last)}: ` +
          `ᾱ_T² = ${number(end)} of the data's energy is left at the end, which misses the prior by ${number(price)} nats a coordinate at x₀ = 1.`,
        panels: [
          {
            title: "ᾱ_t, what is left of the data",
            x: { label: "t/T", min: 0, max: 1 },
            y: { min: 0, max: 1 },
            lines: [
              { points: signal, color: 0, name: "ᾱ_t" },
              ...(posts ? [{ points: bound, color: 1, dash: "dash", name: "the bound e^(−β² t(t+1)/4T)" }] : []),
            ],
          },
          {
            title: "log SNR = log ᾱ²/β̄²",
            x: { label: "t/T", min: 0, max: 1 },
            y: { min: -15, max: 12 },
            lines: [{ points: logSnr, color: 2, name: "log SNR" }],
            rules: [{ y: 0, dash: "solid" }],
          },
        ],
      };
    },
  });
})();
