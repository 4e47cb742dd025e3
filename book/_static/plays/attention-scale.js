// attention/attention-scale: the gradient of a softmax over n normal scores against the scale: approximation, exact mean, one draw.
(() => {
  const { slider, number, range, spacedLog, normals } = kexuePlay;
  const ALPHAS = spacedLog(0.3, 30, 45);

  const approximation = (alpha, n) => alpha * (1 - Math.exp(alpha * alpha) / n);

  /** The α that maximises the approximation: (1 + 2α²) e^(α²) = n, by bisection in its logarithm. */
  const annealedOptimum = (n) => {
    let [low, high] = [0, 10];
    for (let k = 0; k < 60; k += 1) {
      const middle = (low + high) / 2;
      if (Math.log(1 + 2 * middle * middle) + middle * middle < Math.log(n)) low = middle;
      else high = middle;
    }
    return low;
  };

  /** The mean gradient as the mean attended score E Σps: 1/Z = ∫ e^(−tZ) dt makes the keys independent; t = e^(−αu), both integrals as sums. */
  const exactMean = (alpha, n) => {
    const near = Math.min(0.1, 0.6 / alpha), far = 0.06 + 0.25 / alpha;
    const scores = range(Math.ceil(15 / near) + 1, (j) => -7.5 + j * near);
    const mass = scores.map((s) => (Math.exp((-s * s) / 2) / Math.sqrt(2 * Math.PI)) * near);
    const weights = scores.map((s) => Math.exp(alpha * s));
    let total = 0;
    for (let u = 8.5 + 24 / alpha; u > -8.5; u -= far) {
      const t = Math.exp(-alpha * u);
      let [lost, first] = [0, 0]; // 1 − E e^(−t e^(αs)), and t E[s e^(αs) e^(−t e^(αs))]
      for (let j = 0; j < scores.length; j += 1) {
        const te = t * weights[j];
        const kept = te > 50 ? 0 : Math.exp(-te);
        lost += mass[j] * (1 - kept);
        if (kept) first += mass[j] * scores[j] * te * kept;
      }
      const others = (n - 1) * Math.log1p(-Math.min(lost, 1 - 1e-15));
      if (others < -60) break;
      total += first * Math.exp(others);
    }
    return n * total * alpha * far;
  };

  /** G of one score vector, largest score first. */
  const gradient = (alpha, scores) => {
    let [total, squares] = [0, 0];
    for (const s of scores) {
      const weight = Math.exp(alpha * (s - scores[0]));
      if (weight < 1e-17) break;
      total += weight;
      squares += weight * weight;
    }
    return alpha * (1 - squares / (total * total));
  };

  const means = new Map();
  const meanCurve = (n) => {
    if (!means.has(n)) means.set(n, ALPHAS.map((a) => [a, exactMean(a, n)]));
    return means.get(n);
  };

  kexuePlay("attention-scale", {
    title: "Gradient of the softmax against the scale",
    controls: [
      slider("n", "keys n", 10, 1e4, 1000, { log: true, step: 0.05, whole: true }),
      slider("alpha", "extra scale α", 0.3, 30, 2, { log: true, step: 0.02 }),
      slider("draw", "score vector, draw number", 1, 40, 1, { step: 1, whole: true }),
    ],
    compute({ n, alpha, draw }) {
      const scores = normals(n, draw).sort((x, y) => y - x);
      const one = ALPHAS.map((a) => [a, gradient(a, scores)]);
      return {
        approximation: ALPHAS.map((a) => [a, approximation(a, n)]),
        mean: meanCurve(n),
        one,
        here: [approximation(alpha, n), exactMean(alpha, n), gradient(alpha, scores)],
        annealed: annealedOptimum(n),
        best: one.reduce((top, point) => (point[1] > top[1] ? point : top))[0],
        root: Math.sqrt(Math.log(n)),
      };
    },
    show({ n, alpha, draw }, { approximation: f, mean, one, here, annealed, best, root }) {
      return {
        text: `n = ${number(n, 5)}: the approximation has its optimum at α = ${number(annealed)} = ${number(annealed / root, 2)} √(log n). The mean has none; ` +
          `draw ${draw} is best ${best > 29.9 ? "at α = 30 or beyond" : `near α = ${number(best, 2)}`}. At α = ${number(alpha)}: approximation ${number(here[0])}, mean ${number(here[1])}, this draw ${number(here[2])}.`,
        panels: [
          {
            title: "½‖∂p/∂s‖₁, the gradient of the softmax",
            x: { label: "extra scale α (log axis)", min: 0.3, max: 30, log: true, marks: [0.3, 1, 3, 10, 30] },
            y: { min: -1, max: Math.max(4.5, Math.ceil(Math.max(...one.map((p) => p[1])))) },
            lines: [
              { points: f, color: 1, dash: "dash", name: "the post's approximation" },
              { points: mean, color: 0, name: "exact mean" },
              { points: one, color: 2, dash: "mixed", name: `draw ${draw} alone` },
            ],
            rules: [{ x: alpha, color: 5, dash: "solid" }, { y: 0, dash: "solid" }],
            dots: [{ points: [[alpha, here[1]]], color: 0 }, { points: [[alpha, here[2]]], color: 2 }],
            drag: (a) => ({ alpha: a }),
          },
          {
            title: "Where the optimum lies",
            x: { label: "keys n (log axis)", min: 10, max: 1e4, log: true },
            y: { min: 1, max: 40, log: true, marks: [1, 3, 10, 30] },
            lines: [
              { points: spacedLog(10, 1e4, 40).map((m) => [m, annealedOptimum(m)]), color: 1, dash: "dash", name: "of the approximation" },
              { points: spacedLog(10, 1e4, 40).map((m) => [m, Math.sqrt(Math.log(m))]), color: 4, dash: "dot", name: "√(log n)" },
              { points: spacedLog(10, 1e4, 40).map((m) => [m, Math.sqrt(2 * Math.log(m))]), color: 0, dash: "solid", name: "√(2 log n), where the weights freeze" },
            ],
            dots: [{ points: [[n, annealed]], color: 1 }, { points: [[n, best]], color: 2, name: `of draw ${draw}` }],
            drag: (m) => ({ n: m }),
          },
        ],
      };
    },
  });
})();
