// optimization/effective-rank: a spectrum with a knee, and the effective ranks as points on two falling curves.
(() => {
  const { slider, number, range, sum } = kexuePlay;
  const SIZE = 100;
  const ORDERS = range(101, (i) => i / 100); // α/(1 + α)

  /** (Σ p^α)^(1/(1−α)) of the shares p of the weights: a Hill number. */
  const hill = (weights, order) => {
    const total = sum(weights);
    const shares = weights.map((w) => w / total).filter((p) => p > 0);
    if (order === 1) return Math.exp(-sum(shares.map((p) => p * Math.log(p))));
    if (order === Infinity) return 1 / Math.max(...shares);
    return sum(shares.map((p) => p ** order)) ** (1 / (1 - order));
  };

  const NAMES = {
    "rank": [0, 1],
    "entropy rank": [1, 1],
    "entropy rank of squares": [1, 2],
    "participation ratio": [2, 1],
    "participation ratio of squares": [2, 2],
    "intrinsic dimension": [Infinity, 1],
    "stable rank": [Infinity, 2],
  };

  kexuePlay("effective-rank", {
    title: "Effective ranks of a spectrum of 100 singular values",
    controls: [
      slider("knee", "values before the knee", 1, 99, 10, { step: 1, whole: true }),
      slider("power", "slope before it: σᵢ = i^(−slope)", 0, 2, 0.5, { step: 0.05 }),
      slider("floor", "noise after it, over the last value", 1e-6, 1, 1e-2, { log: true, step: 0.05 }),
    ],
    compute({ knee, power, floor }) {
      const sigma = range(SIZE, (i) => (i < knee ? (i + 1) ** -power : floor * knee ** -power));
      const weights = { 1: sigma, 2: sigma.map((s) => s * s) };
      const curve = (gamma) => ORDERS.map((x) => [x, hill(weights[gamma], x === 1 ? Infinity : x === 0.5 ? 1 : x / (1 - x))]);
      const measures = Object.fromEntries(Object.entries(NAMES).map(([name, [order, gamma]]) => [name, hill(weights[gamma], order)]));
      return { sigma, curves: [curve(1), curve(2)], measures };
    },
    show({ knee }, { sigma, curves, measures }) {
      const place = (order) => (order === Infinity ? 1 : order / (1 + order));
      const dots = (gamma) => Object.entries(NAMES).filter(([, [order, g]]) => g === gamma && order > 0).map(([name, [order]]) => [place(order), measures[name]]);
      return {
        text: Object.entries(measures).map(([name, value]) => `${name} ${number(value)}`).join(", ") + ".",
        panels: [
          {
            title: "The spectrum",
            x: { label: "index i of the singular value (log axis)", min: 1, max: SIZE, log: true, marks: [1, 3, 10, 30, 100] },
            y: { min: 1e-7, max: 2, log: true },
            lines: [{ points: sigma.map((s, i) => [i + 1, s]), color: 4, width: 1 }],
            dots: [{ points: sigma.map((s, i) => [i + 1, s]), color: 0, size: 2.5, name: "σᵢ" }],
            rules: [{ x: knee + 0.5, color: 1, dash: "dash", name: "knee" }],
            drag: (i) => ({ knee: Math.round(i) }),
          },
          {
            title: "Hill numbers: the effective ranks",
            x: { label: "order α (the axis is α/(1 + α))", min: 0, max: 1, marks: [[0, "0"], [1 / 3, "1/2"], [1 / 2, "1"], [2 / 3, "2"], [5 / 6, "5"], [1, "∞"]] },
            y: { min: 0.8, max: 130, log: true, marks: [1, 3, 10, 30, 100] },
            lines: [
              { points: curves[0], color: 0, name: "of σ: entropy rank, participation ratio, intrinsic dimension" },
              { points: curves[1], color: 1, dash: "dash", name: "of σ²: the same of squares, stable rank" },
            ],
            dots: [{ points: dots(1), color: 0 }, { points: dots(2), color: 1, hollow: true }],
          },
        ],
      };
    },
  });
})();
