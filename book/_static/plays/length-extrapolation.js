// position/length-extrapolation: what three methods do to each pair's frequency, and whether the pair leaves its trained arc.
(() => {
  const { slider, choice, number, range } = kexuePlay;
  const D = 128, BASE = 1e4;
  const THETA = range(D / 2, (i) => BASE ** ((-2 * i) / D));

  const METHODS = {
    interpolation: (theta, i, s) => theta / s,
    "NTK-aware": (theta, i, s) => (BASE * s ** (D / (D - 2))) ** ((-2 * i) / D),
    YaRN: (theta, i, s, L, tau) => {
      const turns = (L * theta) / (2 * Math.PI);
      const gamma = Math.min(1, Math.max(0, (turns - 1) / (tau - 1)));
      return (gamma + (1 - gamma) / s) * theta;
    },
  };

  kexuePlay("length-extrapolation", {
    title: "Frequencies of the pairs under scaling",
    controls: [
      choice("method", "method", Object.keys(METHODS), "YaRN"),
      slider("s", "scale s of the method", 1, 32, 8, { log: true, step: Math.log10(2) / 4 }),
      slider("text", "text length over the trained one", 1, 32, 8, { log: true, step: Math.log10(2) / 4 }),
      slider("tau", "τ of YaRN, turns from which a pair is kept", 2, 64, 32, { step: 1, whole: true }),
      choice("L", "trained length L", [2048, 4096, 8192], 4096),
    ],
    compute({ method, s, text, tau, L }) {
      const scaled = THETA.map((theta, i) => METHODS[method](theta, i, s, L, tau));
      const ratio = scaled.map((x, i) => x / THETA[i]);
      const turns = THETA.map((theta) => (L * theta) / (2 * Math.PI));
      const beyond = ratio.filter((x, i) => turns[i] < 1 && text * x > 1 + 1e-9).length;
      const kept = ratio.filter((x) => x > 1 - 1e-12).length, full = ratio.filter((x) => x < (1 + 1e-12) / s).length;
      return { ratio, turns, beyond, kept, full, slow: turns.filter((r) => r < 1).length };
    },
    show({ method, s, text, L }, { ratio, turns, beyond, kept, full, slow }) {
      const edge = turns.findIndex((r) => r < 1) - 0.5;
      return {
        text: `${method}, s = ${number(s)}, trained on ${number(L, 4)}: of 64 pairs ${kept} keep their frequency, ${full} are slowed by s in full. ` +
          `On a text ${number(text)} times longer ${beyond} of the ${slow} pairs that never made a full turn in training leave their trained arc.`,
        panels: [
          {
            title: "New frequency over old",
            x: { label: "pair i (0 is the fastest)", min: 0, max: 63 },
            y: { min: 0.025, max: 1.3, log: true, marks: [0.03, 0.1, 0.3, 1] },
            lines: [{ points: ratio.map((x, i) => [i, x]), color: 0, name: method }],
            rules: [{ y: 1 / s, color: 1, dash: "dash", name: "1/s" }, { x: edge, color: 5, dash: "dot", name: "less than one turn in training from here" }],
          },
          {
            title: "Arc reached, over the trained arc",
            x: { label: "pair i", min: 0, max: 63 },
            y: { min: 0.2, max: 40, log: true, marks: [0.3, 1, 3, 10, 30] },
            bands: [{ x: [edge, 63], y: [0.2, 1], color: 2, name: "inside the arc that was trained" }],
            lines: [{ points: ratio.map((x, i) => [i, text * x]), color: 0 }],
            dots: [{ points: ratio.map((x, i) => [i, text * x]).filter(([i]) => turns[i] < 1 && text * ratio[i] > 1 + 1e-9), color: 1, size: 4, name: "angles never seen" }],
            rules: [{ y: 1, dash: "solid" }],
          },
        ],
      };
    },
  });
})();
