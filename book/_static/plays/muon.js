// optimization/muon: the Newton-Schulz polynomial on singular values.
(() => {
  const { slider, number, spaced, spacedLog } = kexuePlay;
  const MUON = [3.4445, -4.775, 2.0315];
  const STARTS = spacedLog(1e-4, 1, 900);

  const map = (x, [a, b, c]) => x * (a + x * x * (b + c * x * x));
  const iterate = (x, steps, coefficients) => {
    for (let k = 0; k < steps && Math.abs(x) < 1e6; k += 1) x = map(x, coefficients);
    return x;
  };

  kexuePlay("muon", {
    title: "Newton-Schulz on singular values",
    controls: [
      slider("steps", "steps", 1, 12, 5, { step: 1, whole: true }),
      slider("a", "a", 1, 4.5, MUON[0], { step: 0.0005 }),
      slider("b", "b", -6, 0, MUON[1], { step: 0.005 }),
      slider("c", "c", 0, 3, MUON[2], { step: 0.0005 }),
      slider("x", "singular value x before", 1e-4, 1, 0.01, { log: true, step: 0.02 }),
    ],
    compute({ steps, a, b, c, x }) {
      const coefficients = [a, b, c];
      const after = STARTS.map((start) => [start, iterate(start, steps, coefficients)]);
      const large = after.filter(([start]) => start >= 0.0015).map((p) => p[1]);
      const orbit = [x];
      for (let k = 0; k < steps; k += 1) orbit.push(map(orbit[k], coefficients));
      return { after, lowest: Math.min(...large), highest: Math.max(...large), orbit, one: a + b + c, growth: a ** steps };
    },
    show({ steps, a, b, c }, { after, lowest, highest, orbit, one, growth }) {
      const stairs = orbit.slice(0, -1).flatMap((y, k) => [[y, y], [y, orbit[k + 1]], [orbit[k + 1], orbit[k + 1]]]);
      return {
        text: `After ${steps} steps ${number(orbit[0])} has become ${number(orbit[steps])}; of the starts drawn those from 0.0015 on end between ${number(lowest)} and ${number(highest)}. ` +
          `Tiny values grow by a^${steps} = ${number(growth)}; f(1) = ${number(one)}.`,
        panels: [
          {
            title: `A singular value after ${steps} steps`,
            x: { label: "singular value before (log axis)", min: 1e-4, max: 1, log: true },
            y: { min: 0, max: 1.8 },
            bands: [{ y: [0.6818, 1.2024], color: 0, name: "band of Muon's coefficients" }],
            lines: [
              { points: after, color: 0, name: "a, b, c as set" },
              { points: STARTS.map((x) => [x, iterate(x, steps, [15 / 8, -5 / 4, 3 / 8])]), color: 5, dash: "dash", width: 1.2, name: "15/8, −5/4, 3/8: converges to 1" },
            ],
            dots: [{ points: [[orbit[0], Math.min(1.8, orbit[steps])]], color: 1 }],
            drag: (x) => ({ x }),
          },
          {
            title: "One step, and the path of x",
            x: { label: "x", min: 0, max: 1.4 },
            y: { min: 0, max: 1.4 },
            lines: [
              { points: spaced(0, 1.4, 140).map((x) => [x, map(x, [a, b, c])]), color: 0, name: "f(x) = ax + bx³ + cx⁵" },
              { points: [[0, 0], [1.4, 1.4]], color: 4, dash: "dash", name: "fixed points lie on this line" },
              { points: stairs, color: 1, width: 1.2, name: "path" },
            ],
          },
        ],
      };
    },
  });
})();
