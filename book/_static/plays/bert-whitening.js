// representation/bert-whitening: a cloud of vectors in the plane, centred by β and flattened by γ.
(() => {
  const { slider, number, range, sum, normals } = kexuePlay;
  const COUNT = 150;

  const cosine = (u, v) => (u[0] * v[0] + u[1] * v[1]) / Math.hypot(...u) / Math.hypot(...v);

  /** Rows (x − βμ) U Λ^(−γ/2), with UΛUᵀ the second moment about βμ. */
  const transform = (X, beta, gamma) => {
    const mu = [0, 1].map((i) => sum(X.map((x) => x[i])) / X.length);
    const Z = X.map((x) => [x[0] - beta * mu[0], x[1] - beta * mu[1]]);
    const moment = (i, j) => sum(Z.map((z) => z[i] * z[j])) / Z.length;
    const [p, q, r] = [moment(0, 0), moment(0, 1), moment(1, 1)];
    const angle = Math.atan2(2 * q, p - r) / 2, half = Math.hypot((p - r) / 2, q);
    const lambda = [(p + r) / 2 + half, (p + r) / 2 - half];
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    return { lambda, rows: Z.map((z) => [(c * z[0] + s * z[1]) * lambda[0] ** (-gamma / 2), (c * z[1] - s * z[0]) * lambda[1] ** (-gamma / 2)]) };
  };

  /** Cosines of all pairs: their mean, and shares in 40 bins. */
  const pairs = (rows) => {
    const unit = rows.map((x) => [x[0] / Math.hypot(...x), x[1] / Math.hypot(...x)]);
    const bins = new Array(40).fill(0);
    let total = 0;
    unit.forEach((u, i) => unit.slice(0, i).forEach((v) => {
      const value = u[0] * v[0] + u[1] * v[1];
      total += value;
      bins[Math.min(39, Math.floor((value + 1) * 20))] += 1;
    }));
    const count = (COUNT * (COUNT - 1)) / 2;
    return { mean: total / count, shares: bins.map((b) => b / count) };
  };

  const stairs = (shares) => shares.flatMap((share, i) => [[-1 + i / 20, share], [-1 + (i + 1) / 20, share]]);

  kexuePlay("bert-whitening", {
    title: "Whitening in the plane",
    controls: [
      slider("mean", "length of the mean, in s.d. of the wide axis", 0, 4, 2, { step: 0.1 }),
      slider("ratio", "narrow axis over wide axis", 0.05, 1, 0.25, { log: true, step: 0.02 }),
      slider("beta", "β, share of the mean removed", 0, 1, 0, { step: 0.05 }),
      slider("gamma", "γ, flattening of the spectrum", 0, 1, 0, { step: 0.05 }),
    ],
    compute({ mean, ratio, beta, gamma }) {
      const draw = normals(2 * COUNT, 7);
      const cloud = range(COUNT, (i) => [draw[2 * i] + 0.8 * mean, ratio * draw[2 * i + 1] + 0.6 * mean]);
      const { lambda, rows } = transform(cloud, beta, gamma);
      const size = Math.sqrt(sum(rows.map((x) => x[0] ** 2 + x[1] ** 2)) / COUNT);
      return { cloud, rows, lambda, size, before: pairs(cloud), after: pairs(rows), marked: [cosine(cloud[0], cloud[1]), cosine(rows[0], rows[1])] };
    },
    show({ beta, gamma }, { cloud, rows, size, before, after, marked }) {
      const reach = Math.max(...cloud.flat().map(Math.abs));
      const most = Math.max(...before.shares, ...after.shares);
      const view = (title, points, limit) => ({
        title,
        x: { label: "first coordinate", min: -1.37 * limit, max: 1.37 * limit }, // the axes are about 1.37 times as wide as high
        y: { min: -limit, max: limit },
        lines: points.slice(0, 2).map((x, i) => ({ points: [[0, 0], x], color: [1, 3][i], width: 1.6 })),
        dots: [{ points, color: 0, size: 2 }, { points: [points[0]], color: 1, size: 6 }, { points: [points[1]], color: 3, size: 6 }],
        rules: [{ x: 0 }, { y: 0 }],
      });
      return {
        text: `β = ${number(beta)}, γ = ${number(gamma)}: mean cosine of all pairs ${number(before.mean)} before, ${number(after.mean)} after; of the two marked vectors ${number(marked[0])} before, ${number(marked[1])} after.`,
        panels: [
          view("Before", cloud, 0.9 * reach),
          view("After, (x − βμ) U Λ^(−γ/2), scaled to fit", rows.map((x) => [x[0] / size, x[1] / size]), 2.6),
          {
            title: "Cosines of all pairs",
            x: { label: "cosine", min: -1, max: 1 },
            y: { min: 0, max: Math.max(0.1, Math.ceil(most * 10) / 10) },
            lines: [{ points: stairs(before.shares), color: 4, dash: "dash", name: "before" }, { points: stairs(after.shares), color: 0, name: "after (share of pairs in bins of 0.05)" }],
          },
        ],
      };
    },
  });
})();
