// attention/softmax-alternatives: five logits and the α of entmax, from softmax to sparsemax and beyond.
(() => {
  const { slider, number, range, spaced, sum } = kexuePlay;
  const NAMES = ["x₁", "x₂", "x₃", "x₄", "x₅"];
  const ALPHAS = spaced(1, 3, 81);

  const softmax = (x) => {
    const weights = x.map((v) => Math.exp(v - Math.max(...x)));
    return weights.map((w) => w / sum(weights));
  };

  /** relu(βx − λ)^(1/β) with β = α − 1 and λ such that it sums to 1: bisection on the bracket −1 ≤ λ ≤ 0 for max βx = 0. */
  const entmax = (x, alpha) => {
    if (alpha - 1 < 1e-6) return softmax(x);
    const beta = alpha - 1, top = Math.max(...x);
    const z = x.map((v) => beta * (v - top));
    const at = (lambda) => z.map((v) => Math.max(0, v - lambda) ** (1 / beta));
    let [low, high] = [-1, 0];
    for (let k = 0; k < 60; k += 1) {
      const middle = (low + high) / 2;
      if (sum(at(middle)) > 1) low = middle;
      else high = middle;
    }
    const p = at((low + high) / 2);
    return p.map((v) => v / sum(p));
  };

  kexuePlay("softmax-alternatives", {
    title: "Entmax of five logits",
    controls: [
      slider("alpha", "α of entmax (1: softmax, 2: sparsemax)", 1, 3, 1.5, { step: 0.025 }),
      ...[1.2, 0.7, 0, -0.5, -1].map((value, i) => slider(`x${i + 1}`, `logit ${NAMES[i]}`, -3, 3, value, { step: 0.05 })),
    ],
    compute({ alpha, x1, x2, x3, x4, x5 }) {
      const x = [x1, x2, x3, x4, x5];
      return { p: entmax(x, alpha), soft: softmax(x), paths: range(5, (i) => ALPHAS.map((a) => [a, entmax(x, a)[i]])) };
    },
    show({ alpha, ...logits }, { p, soft, paths }) {
      const kept = p.filter((v) => v > 0).length;
      const list = (values) => values.map((v) => (v === 0 ? "0" : v.toFixed(3))).join(", ");
      return {
        text: `α = ${number(alpha, 4)} keeps ${kept} of 5 classes: p = (${list(p)}). Softmax gives (${list(soft)}).`,
        panels: [
          {
            title: "Logits to drag (dots), weights (bars)",
            x: { label: "class", min: 0.5, max: 5.5, marks: NAMES.map((name, i) => [i + 1, name]) },
            y: { min: -3, max: 3 },
            bars: [
              ...p.map((v, i) => ({ x0: i + 0.75, x1: i + 1, y: 3 * v, color: 0, name: i ? undefined : "3p, entmax" })),
              ...soft.map((v, i) => ({ x0: i + 1, x1: i + 1.25, y: 3 * v, color: 4, name: i ? undefined : "3p, softmax" })),
            ],
            rules: [{ y: 0, dash: "solid" }],
            dots: [{ points: Object.values(logits).map((x, i) => [i + 1, x]), color: 1, size: 7, name: "logits" }],
            drag: (x, y, startX) => ({ [`x${Math.min(5, Math.max(1, Math.round(startX)))}`]: y }),
          },
          {
            title: "Weights against α",
            x: { label: "α", min: 1, max: 3 },
            y: { min: 0, max: 1 },
            lines: paths.map((points, i) => ({ points, color: [0, 1, 2, 3, 5][i], dash: ["solid", "dash", "mixed", "dot", "solid"][i], name: `p of ${NAMES[i]}` })),
            rules: [{ x: alpha, color: 5, dash: "dash" }],
            drag: (a) => ({ alpha: a }),
          },
        ],
      };
    },
  });
})();
