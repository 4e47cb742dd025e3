// depth/deepnet: skip weight α = S^a and initial size λ = S^(−b): the first step of three optimisers, and whether tokens stay apart.
(() => {
  const { slider, number, range, spacedLog } = kexuePlay;
  const POWERS = { SGD: (a, b) => 1 - 2 * a - 2 * b, "Adam, Muon": (a, b) => 1 - a - b, LAMB: (a, b) => 1 - a - 2 * b };
  const TOKENS = 32, RATIO = 4;

  /** 1 − ρ of two tokens after each layer: uniform attention to n tokens, then a ReLU layer, as the notebook's recursion. */
  const gaps = (alpha, lambda, N) => {
    const c = (2 * RATIO) / (1 + RATIO) ** 2, l4 = lambda ** 4, a2 = alpha ** 2;
    let gap = 1;
    return [1, ...range(N, () => {
      const m = 1 - gap + gap / TOKENS;
      gap = (a2 * gap) / (a2 + l4 * m);
      const angle = 2 * Math.asin(Math.sqrt(gap / 2)); // ρ = cos(angle), and 1 − κ(ρ) without a difference of equal numbers
      gap = (a2 * gap + c * l4 * (gap - (Math.sin(angle) - angle * Math.cos(angle)) / Math.PI)) / (a2 + c * l4);
      return gap;
    })];
  };

  kexuePlay("deepnet", {
    title: "Budgets of a deep Post-LN Transformer",
    controls: [
      slider("N", "layers N", 2, 1000, 100, { log: true, step: 0.02, whole: true }),
      slider("a", "a, skip weight α = S^a", 0, 1, 0, { step: 0.01 }),
      slider("b", "b, initial size λ = S^(−b)", 0, 0.8, 0, { step: 0.01 }),
    ],
    compute({ N, a, b }) {
      const S = 2 * N;
      const alpha = S ** a, lambda = S ** -b;
      const change = { SGD: S * (lambda / alpha) ** 2, "Adam, Muon": (S * lambda) / alpha, LAMB: (S * lambda ** 2) / alpha };
      return { change, gap: gaps(alpha, lambda, N), alpha, lambda };
    },
    show({ N, a, b }, { change, gap, alpha, lambda }) {
      const depths = spacedLog(2, 1000, 30);
      const colors = { SGD: 0, "Adam, Muon": 2, LAMB: 3 }, dashes = { SGD: "solid", "Adam, Muon": "mixed", LAMB: "dash" };
      const apart = Math.sqrt(2 * gap[N]);
      return {
        text: `α = ${number(alpha)}, λ = ${number(lambda)}. First step of ${number(N, 4)} layers over that of one sublayer: ` +
          Object.entries(change).map(([name, x]) => `${name} ${number(x)}`).join("; ") +
          `. Two tokens differ by ${apart < 6e-8 ? "less than float32 resolves" : `${number(100 * apart, 2)}% of their length`} at the end.`,
        panels: [
          {
            title: "The two dials",
            x: { label: "a, with α = S^a", min: 0, max: 1 },
            y: { min: 0, max: 0.8 },
            lines: [
              { points: [[0, 0.5], [0.5, 0]], color: 0, name: "SGD: a + b = 1/2" },
              { points: [[0, 1], [1, 0]], color: 2, dash: "mixed", name: "Adam and Muon: a + b = 1" },
              { points: [[0, 0.5], [1, 0]], color: 3, dash: "dash", name: "LAMB: a + 2b = 1" },
            ],
            dots: [{ points: [[0.25, 0.25], [0.5, 0.5]], color: 4, hollow: true, name: "DeepNorm, the post's Adam rule" }, { points: [[a, b]], color: 1, size: 7, name: "here" }],
            notes: [{ x: 0, y: 0.8, dx: 6, dy: 14, text: "b" }],
            drag: (x, y) => ({ a: x, b: y }),
          },
          {
            title: "First-order change of the loss",
            x: { label: "layers N (log axis)", min: 2, max: 1000, log: true },
            y: { min: 1e-3, max: 1e4, log: true },
            lines: Object.entries(POWERS).map(([name, power]) => ({ points: depths.map((n) => [n, (2 * n) ** power(a, b)]), color: colors[name], dash: dashes[name], name })),
            dots: Object.entries(change).map(([name, x]) => ({ points: [[N, x]], color: colors[name] })),
            rules: [{ y: 1, dash: "solid" }],
            drag: (n) => ({ N: Math.round(n) }),
          },
          {
            title: "1 − ρ of two tokens, before any step",
            x: { label: "layer", min: 0, max: N },
            y: { min: 1e-16, max: 2, log: true },
            lines: [{ points: gap.map((g, n) => [n, Math.max(g, 1e-17)]), color: 1, name: "1 − ρ at the dials" }],
          },
        ],
      };
    },
  });
})();
