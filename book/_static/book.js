// The ledger's filter (also from the address: ledger.html?verdict=refuted), the way into folded evidence, and formulas and tables that can be scrolled from the keyboard.
(() => {
  const table = document.getElementById("kx-ledger");
  if (table) {
    const rows = [...table.tBodies[0].rows];
    const controls = ["post", "kind", "verdict", "words"].map((name) => document.getElementById("kx-" + name));
    const count = document.getElementById("kx-count");
    const apply = () => {
      const [post, kind, verdict, words] = controls.map((control) => control.value);
      const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const { post: p, kind: k, verdict: v } = row.dataset;
        const text = row.textContent.toLowerCase();
        const fits = (!post || p === post) && (!kind || k === kind) && (!verdict || v === verdict) && wanted.every((w) => text.includes(w));
        row.hidden = !fits;
        shown += fits;
      }
      count.textContent = `${shown} of ${rows.length} entries`;
      const asked = new URLSearchParams(controls.filter((c) => c.value).map((c) => [c.id.slice(3), c.value]));
      history.replaceState(null, "", (asked.size ? `?${asked}` : location.pathname) + location.hash);
    };
    const asked = new URLSearchParams(location.search);
    for (const control of controls) control.value = asked.get(control.id.slice(3)) ?? "";
    controls.forEach((control) => control.addEventListener("input", apply));
    controls[0].form.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }
  const open = () => {
    const entry = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const details = entry && entry.querySelector("details");
    if (details) details.open = true;
  };
  addEventListener("hashchange", open);
  open();
  const focusable = () => {
    for (const wide of document.querySelectorAll("mjx-container[display], div.math, .output, pre, .pst-scrollable-table-container")) {
      if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
    }
  };
  addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(focusable));
})();

// Figures to drag: their code comes only to the pages that have one.
(() => {
  const names = new Set([...document.querySelectorAll(".kx-play")].map((place) => place.dataset.play));
  if (!names.size) return;
  const here = document.currentScript.src;
  const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("play.css", here).href });
  document.head.append(style);
  for (const file of ["play.js", ...[...names].map((name) => `plays/${name}.js`)]) {
    document.head.append(Object.assign(document.createElement("script"), { src: new URL(file, here).href, async: false }));
  }
})();
