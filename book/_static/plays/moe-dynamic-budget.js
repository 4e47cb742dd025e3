// moe/moe-dynamic-budget: two experts, a budget of k experts a token, and the rules that steer their biases.
(() => {
  const { slider, choice, number, sum, normalCdf } = kexuePlay;
  const MEANS = [0.2, -0.2], SPREAD = 0.3;

  /** F̃: the share of tokens whose score, the sigmoid of a normal logit, exceeds −b. */
  const loads = (b) => b.map((x, i) => normalCdf((MEANS[i] - Math.log(-x / (1 + x))) / SPREAD));
  const mean = (v) => sum(v) / v.length;
  const tilt = (F) => {
    const signs = F.map((x) => Math.sign(x * F.length - sum(F)));
    return signs.map((s) => s - mean(signs));
  };
  const RULES = {
    "two-term (4)": (F, k) => tilt(F).map((s) => s + Math.sign(sum(F) - k)),
    "one-sided (5)": (F, k) => tilt(F).map((s) => s + Math.sign(Math.max(0, sum(F) - k))),
    "simplified (6)": (F, k) => F.map((x) => Math.sign(x - k / F.length)),
  };
  /** −q of the logit's quantile at 1 − k/n, by bisection: where every rule leads. */
  const goal = (k) => MEANS.map((_, i) => {
    let [low, high] = [-0.9999, -0.0001];
    for (let j = 0; j < 60; j += 1) {
      const middle = (low + high) / 2;
      if (loads([middle, middle])[i] < k / 2) low = middle;
      else high = middle;
    }
    return low;
  });

  kexuePlay("moe-dynamic-budget", {
    title: "Biases of two experts under a rule",
    controls: [
      choice("rule", "rule", Object.keys(RULES), "two-term (4)"),
      slider("k", "budget k, experts a token of 2", 0.2, 1.8, 1, { step: 0.05 }),
      slider("rate", "step of the bias", 5e-4, 0.02, 2e-3, { log: true, step: 0.02 }),
      slider("b1", "b₁ at the start", -0.7, -0.3, -0.345, { step: 0.005 }),
      slider("b2", "b₂ at the start", -0.7, -0.3, -0.62, { step: 0.005 }),
    ],
    compute({ rule, k, rate, b1, b2 }) {
      const path = [[b1, b2]];
      const load = [loads(path[0])];
      for (let step = 0; step < 300; step += 1) {
        const push = RULES[rule](load[step], k);
        path.push(path[step].map((b, i) => Math.min(-1e-4, Math.max(-0.9999, b - rate * push[i]))));
        load.push(loads(path[step + 1]));
      }
      const near = load.findIndex((F) => Math.abs(sum(F) - k) <= 0.05 * k && Math.abs(F[0] - F[1]) <= 0.05 * k);
      return { path, load, goal: goal(k), near };
    },
    show({ rule, k, rate }, { path, load, goal: target, near }) {
      const last = load[300];
      return {
        text: `Rule ${rule}, step ${number(rate)}: ${near < 0 ? "after 300 steps it is not yet within 5% of budget and balance" : `within 5% of budget and balance after ${near} steps`}. ` +
          `At the end a token gets ${number(sum(last))} experts (goal ${number(k)}), with loads ${number(last[0], 2)} and ${number(last[1], 2)}.`,
        panels: [
          {
            title: "Path of the biases",
            x: { label: "b₁", min: -0.7, max: -0.3 },
            y: { min: -0.7, max: -0.3 },
            lines: [{ points: path, color: 0, width: 1.5, name: "path" }],
            dots: [{ points: [path[0]], color: 0, size: 7, name: "start, to drag" }, { points: [target], color: 1, size: 7, hollow: true, name: "goal: minus the quantiles" }],
            notes: [{ x: -0.7, y: -0.3, dx: 6, dy: 14, text: "b₂" }],
            drag: (x, y) => ({ b1: x, b2: y }),
          },
          {
            title: "Load of each expert, and their sum",
            x: { label: "step", min: 0, max: 300 },
            y: { min: 0, max: 2 },
            lines: [
              { points: load.map((F, i) => [i, sum(F)]), color: 5, name: "experts a token" },
              { points: load.map((F, i) => [i, F[0]]), color: 0, dash: "dash", name: "load of expert 1" },
              { points: load.map((F, i) => [i, F[1]]), color: 2, dash: "mixed", name: "load of expert 2" },
            ],
            rules: [{ y: k, color: 1, name: "budget k" }],
          },
        ],
      };
    },
  });
})();
