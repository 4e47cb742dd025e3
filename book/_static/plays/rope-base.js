// position/rope-base: the sum of cosines against the distance, and how far bases nearby reach.
(() => {
  const { slider, choice, number, range, spacedLog, sum } = kexuePlay;
  const FAR = 65536;
  const DISTANCES = [...new Set(spacedLog(1, FAR - 1, 700).map(Math.round))];

  const angles = (b, d) => range(d / 2, (i) => b ** ((-2 * i) / d));

  /** N(b): the first distance below `far` at which the sum of cosines is negative, or null; every pair is turned step by step. */
  const reach = (b, d, far = FAR) => {
    const theta = angles(b, d);
    const [c, s] = [theta.map(Math.cos), theta.map(Math.sin)];
    const [x, y] = [new Float64Array(c), new Float64Array(s)];
    for (let m = 1; m < far; m += 1) {
      let total = 0;
      for (let i = 0; i < x.length; i += 1) {
        const u = x[i];
        total += u;
        x[i] = u * c[i] - y[i] * s[i];
        y[i] = u * s[i] + y[i] * c[i];
      }
      if (total < 0) return m;
    }
    return null;
  };

  const known = new Map();
  const kept = (step, d) => {
    const key = `${step}/${d}`;
    if (!known.has(key)) known.set(key, reach(10 ** (step / 60), d));
    return known.get(key);
  };

  kexuePlay("rope-base", {
    title: "RoPE's sum of cosines",
    controls: [
      slider("b", "base b", 1e2, 1e6, 1e4, { log: true, step: 0.005 }),
      choice("d", "head size d", [32, 64, 128, 256], 128),
    ],
    compute({ b, d }) {
      const theta = angles(b, d);
      const here = Math.round(60 * Math.log10(b));
      return {
        curve: DISTANCES.map((m) => [m, sum(theta.map((t) => Math.cos(m * t)))]),
        N: reach(b, d),
        near: range(25, (j) => [10 ** ((here + j - 12) / 60), kept(here + j - 12, d)]),
      };
    },
    show({ b, d }, { curve, N, near }) {
      const capped = near.map(([base, n]) => [base, n ?? FAR]);
      const reaches = near.filter(([base, n]) => base > b && (n ?? FAR) < (N ?? FAR)).length;
      return {
        text: `Base ${number(b, 4)}, head size ${d}: the sum is first negative at m = ${N ? number(N, 6) : `${number(FAR, 6)} or later`}, ` +
          `so the usable context is N(b)${N ? "" : " ≥"} = ${number(N ?? FAR, 6)} tokens. Of 12 slightly larger bases ${reaches} reach less far.`,
        panels: [
          {
            title: `f(m) = Σ cos mθᵢ, of at most ${d / 2}`,
            x: { label: "distance m (tokens, log axis)", min: 1, max: FAR, log: true },
            y: { min: -d / 6, max: d / 2 },
            lines: [{ points: curve, color: 0, width: 1.4 }],
            rules: [{ y: 0, dash: "solid" }, ...(N ? [{ x: N, color: 1, dash: "dash", name: "N(b), first negative sum" }] : [])],
          },
          {
            title: "Usable context N(b) of the bases around b",
            x: { label: "base (log axis)", min: capped[0][0], max: capped[24][0], log: true, marks: [0, 6, 12, 18, 24].map((j) => [capped[j][0], number(capped[j][0], 2)]) },
            y: { min: 30, max: 1e5, log: true },
            lines: [{ points: capped, color: 4, width: 1 }],
            dots: [{ points: capped, color: 0, size: 3 }, { points: [[b, N ?? FAR]], color: 1, size: 6, name: "this base" }],
            drag: (base) => ({ b: base }),
          },
        ],
      };
    },
  });
})();
