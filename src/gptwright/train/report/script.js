// Everything here is an extra: the page is complete without it.
"use strict";
(() => {
  const points = JSON.parse(document.getElementById("points").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const tip = document.getElementById("tip");
  const compact = (v) => v >= 1e4
    ? new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 }).format(v)
    : new Intl.NumberFormat("en").format(v);
  const clock = (s) => s < 60 ? `${s.toFixed(1)} s`
    : s < 3600 ? `${Math.floor(s / 60)} min ${String(Math.floor(s % 60)).padStart(2, "0")} s`
    : `${Math.floor(s / 3600)} h ${String(Math.floor(s % 3600 / 60)).padStart(2, "0")} min`;
  const short = (name, v) => v == null ? "–"
    : name.includes("loss") ? v.toFixed(4)
    : name === "tokens_per_second" ? compact(v)
    : v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(2) : String(Number(v.toPrecision(4)));

  function place(value, lo, hi, log) {
    return log ? Math.log(value / lo) / Math.log(hi / lo) : (value - lo) / (hi - lo);
  }
  function value(fraction, lo, hi, log) {
    return log ? lo * (hi / lo) ** fraction : lo + fraction * (hi - lo);
  }
  function nearest(list, wanted) {
    let best = -1;
    (list || []).forEach((v, n) => {
      if (v != null && (best < 0 || Math.abs(v - wanted) < Math.abs(list[best] - wanted))) best = n;
    });
    return best;
  }
  function element(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, v] of Object.entries(attributes)) made.setAttribute(key, v);
    return made;
  }
  function row(name, text) {
    const line = document.createElement("span"), label = document.createElement("i");
    label.textContent = name;
    line.append(label, text);
    return line;
  }

  const charts = [...document.querySelectorAll("svg.chart")].map((svg) => {
    const [x0, x1, y0, y1] = svg.dataset.span.split(" ").map(Number);
    const hair = element("line", { class: "hair", y1: "0", y2: "100%", visibility: "hidden" });
    const overlay = element("g", {});
    overlay.append(hair);
    svg.append(overlay);
    return {
      svg, hair, overlay, x0, x1, y0, y1, x: svg.dataset.x, spots: [],
      xlog: svg.dataset.log.includes("x"), ylog: svg.dataset.log.includes("y"),
      series: JSON.parse(svg.dataset.series),
    };
  });

  function clear() {
    tip.hidden = true;
    for (const chart of charts) {
      chart.hair.setAttribute("visibility", "hidden");
      chart.spots.forEach((spot) => spot.remove());
      chart.spots = [];
    }
  }

  // Each visible chart shows the same moment.
  function mark(x, at) {
    for (const chart of charts) {
      if (chart.x !== x || !chart.svg.getClientRects().length) continue;
      const across = place(at, chart.x0, chart.x1, chart.xlog);
      if (!(across >= -1e-6 && across <= 1 + 1e-6)) continue;
      chart.hair.setAttribute("x1", `${100 * across}%`);
      chart.hair.setAttribute("x2", `${100 * across}%`);
      chart.hair.setAttribute("visibility", "visible");
      for (const [name, rows, colour] of chart.series) {
        const part = points[rows] || {};
        const n = nearest(part[x], at);
        const y = n < 0 ? null : (part[`${name}_smooth`] || part[name] || [])[n];
        if (y == null) continue;
        const up = place(y, chart.y0, chart.y1, chart.ylog);
        if (!(up >= 0 && up <= 1)) continue;
        const spot = element("circle", {
          class: `spot ${colour.split(" ")[0]}`, r: "5", cy: `${100 * (1 - up)}%`,
          cx: `${100 * place(part[x][n], chart.x0, chart.x1, chart.xlog)}%`,
        });
        chart.overlay.append(spot);
        chart.spots.push(spot);
      }
    }
  }

  // The rows of the nearest point of all curves of a chart: [rows, number], or nothing.
  function closest(chart, wanted) {
    let best = null;
    for (const rows of new Set(chart.series.map((one) => one[1]))) {
      const list = (points[rows] || {})[chart.x], n = nearest(list, wanted);
      if (n >= 0 && (!best || Math.abs(list[n] - wanted) < Math.abs(points[best[0]][chart.x][best[1]] - wanted))) best = [rows, n];
    }
    return best;
  }

  function tell(chart, rows, k, at) {
    const from = points[rows], lines = [], alone = Boolean(points.train);
    const head = document.createElement("b");
    head.textContent = alone || chart.x === "step" ? `step ${new Intl.NumberFormat("en").format(from.step[k])}`
      : chart.x === "tokens" ? `${compact(at)} tokens`
      : chart.x === "train_seconds" ? clock(at) : `learning rate ${short("", at)}`;
    lines.push(head);
    if (alone && from.tokens) lines.push(row("tokens", compact(from.tokens[k])));
    if (alone && from.train_seconds && from.train_seconds[k] != null) lines.push(row("time", clock(from.train_seconds[k])));
    for (const [name, own, , label] of chart.series) {
      const part = points[own], list = part[chart.x], m = nearest(list, at);
      if (m < 0 || !part[name]) continue;
      const ends = Math.max(...list.filter((v) => v != null)) < at - 0.02 * (chart.x1 - chart.x0);
      if (ends) continue; // a shorter run
      const smoothed = part[`${name}_smooth`], val = own.startsWith("val");
      if (alone && smoothed && name === "loss") {
        lines.push(row(label, short(name, part[name][m])), row("smoothed", short(name, smoothed[m])));
      } else {
        const y = alone || !smoothed ? part[name][m] : smoothed[m];
        lines.push(row(val && alone ? `${label}, step ${compact(part.step[m])}` : label, short(name, y)));
      }
    }
    tip.replaceChildren(...lines);
    tip.hidden = false;
  }

  function show(chart, fraction) {
    clear();
    const wanted = value(Math.min(1, Math.max(0, fraction)), chart.x0, chart.x1, chart.xlog);
    const found = closest(chart, wanted);
    if (!found) return;
    const [rows, k] = found, at = points[rows][chart.x][k];
    chart.at = found;
    mark(chart.x, at);
    tell(chart, rows, k, at);
    const box = chart.svg.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const x = box.left + box.width * place(at, chart.x0, chart.x1, chart.xlog);
    const left = x + 16 + size.width > innerWidth ? x - 16 - size.width : x + 16;
    tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, box.top + 8)}px)`;
  }

  for (const chart of charts) {
    const follow = (event) => {
      const box = chart.svg.getBoundingClientRect();
      show(chart, (event.clientX - box.left) / box.width);
    };
    chart.svg.addEventListener("pointermove", follow);
    chart.svg.addEventListener("pointerdown", follow);
    chart.svg.addEventListener("pointerleave", clear);
    chart.svg.addEventListener("blur", clear);
    chart.svg.setAttribute("tabindex", "0");
    chart.svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
      if (event.key === "Escape") clear();
      if (!move) return;
      event.preventDefault();
      const [rows, from] = chart.at || [chart.series[0][1], 0], list = points[rows][chart.x];
      const k = Math.min(list.length - 1, Math.max(0, from + move));
      show(chart, place(list[k], chart.x0, chart.x1, chart.xlog));
    });
  }
  addEventListener("scroll", clear, { passive: true });

  const slider = document.getElementById("sample-at");
  if (slider && Number(slider.max) > 0) {
    const text = document.getElementById("sample-text"), when = document.getElementById("sample-when");
    const latest = [when.textContent, text.textContent];
    const earlier = [...document.querySelectorAll(".earlier .inner")].reverse()
      .map((one) => [one.querySelector("summary").textContent, one.querySelector("pre").textContent]);
    const all = [...earlier, latest];
    slider.hidden = false;
    slider.value = slider.max;
    slider.addEventListener("input", () => {
      [when.textContent, text.textContent] = all[Number(slider.value)];
      slider.setAttribute("aria-valuetext", when.textContent);
    });
  }

  // A run that goes on: the page reads itself again, and comes back to what was looked at.
  const every = Number(document.body.dataset.refresh);
  if (every) {
    const chosen = () => [...document.querySelectorAll(".controls input")].map((input) => input.checked);
    const open = () => [...document.querySelectorAll("details")].map((one) => one.open);
    const key = `gptwright:${location.pathname}`;
    try {
      const before = JSON.parse(sessionStorage.getItem(key));
      if (before) {
        document.querySelectorAll(".controls input").forEach((input, n) => { input.checked = before.chosen[n]; });
        document.querySelectorAll("details").forEach((one, n) => { one.open = Boolean(before.open[n]); });
        scrollTo(0, before.y);
        sessionStorage.removeItem(key);
      }
    } catch { /* a browser that keeps nothing: the page starts at its top */ }
    setInterval(() => {
      const busy = !tip.hidden || (slider && slider.value !== slider.max) || String(getSelection());
      if (document.hidden || busy) return;
      try {
        sessionStorage.setItem(key, JSON.stringify({ chosen: chosen(), open: open(), y: scrollY }));
      } catch { /* as above */ }
      location.reload();
    }, 1000 * every);
  }

  if (navigator.clipboard) {
    for (const code of document.querySelectorAll(".next code")) {
      const button = document.createElement("button");
      button.className = "copy";
      button.type = "button";
      button.textContent = "Copy";
      button.setAttribute("aria-label", `Copy: ${code.textContent}`);
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
      code.after(button);
    }
  }
})();
