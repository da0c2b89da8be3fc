// Draws the figures of a report from the data in #figures; no library, nothing fetched.
"use strict";
(() => {
  const NS = "http://www.w3.org/2000/svg";
  const root = document.documentElement;
  root.classList.add("js");
  const { figures, labels } = JSON.parse(document.getElementById("figures").textContent);
  const hidden = new Set();
  const redraws = [];

  const element = (parent, name, attributes = {}, text) => {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  };
  const html = (parent, name, attributes = {}, text) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  };
  const colour = (system) => `var(--system-${labels[system].index})`;
  const DASHES = ["", "6 4", "2 4"];
  const broken = (system) => (labels[system].dash ? { "stroke-dasharray": DASHES[labels[system].dash] } : {});
  // Marks of what the paper does not have are hollow.
  const mark = (system) => labels[system].dash ? `fill:var(--raised);stroke:${colour(system)};stroke-width:2` : `fill:${colour(system)}`;
  const keyClass = (system) => (labels[system].dash ? "key hollow" : "key");

  // ---- scales
  const ticks = (low, high, count, least = 2) => {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found.length < least && count < 12 ? ticks(low, high, count + 1, least) : found;
  };
  const shown = (value, step) => {
    if (Math.abs(value) >= 10000) return `${+(value / 1000).toFixed(1)}k`;
    const [first, power] = step ? step.toExponential(1).split("e") : ["", "0"];  // 2.5 needs a digit more than 2
    const digits = Math.max(0, Math.min(5, -power + (first === "2.5" ? 1 : 0)));
    return value.toFixed(digits).replace("-", "−");
  };
  const exact = (value) => {
    const text = value && Math.abs(value) < 0.0095 ? value.toPrecision(2) : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : Number.isInteger(value) ? String(value) : value.toFixed(3);
    return text.replaceAll("-", "−");
  };
  const scale = (low, high, from, to, log) => {
    const t = log ? Math.log10 : (v) => v;
    const [a, b] = [t(low), t(high)];
    return (value) => from + ((t(value) - a) / (b - a || 1)) * (to - from);
  };
  const extent = (values, fromZero, pad = 0.05) => {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (fromZero) low = Math.min(0, low);
    if (low === high && low === 0 && fromZero) return [0, 1];
    if (low === high) { const by = Math.abs(low) * 0.1 || 1; low -= by; high += by; }
    const by = (high - low) * pad;
    return [fromZero && low === 0 ? 0 : low - by, high + by];
  };

  // ---- one panel
  const draw = (panel, box, tip, figure) => {
    const width = Math.max(220, box.clientWidth);
    const visible = (item) => !hidden.has(item.system);
    box.replaceChildren();
    const dots = (panel.dots || []).filter(visible);
    const height = panel.kind === "dots" ? 40 + 26 * Math.max(1, dots.length) : Math.round(Math.min(300, Math.max(200, width * 0.6)));
    const svg = element(box, "svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" });
    const longest = Math.max(0, ...(panel.dots || []).map((dot) => dot.name.length));
    const left = panel.kind === "dots" ? Math.min(width * 0.4, longest * 6.8 + 14) : 44;
    const area = { left, right: width - 12, top: panel.y ? 20 : 8, bottom: height - 34 };
    const frame = (x, y, log, logY) => {
      const xs = log ? logTicks(x[0], x[1]) : ticks(x[0], x[1], Math.max(2, Math.floor((area.right - area.left) / 70)));
      const sx = scale(x[0], x[1], area.left, area.right, log);
      for (const value of xs) {
        element(svg, "line", { class: "grid", x1: sx(value), x2: sx(value), y1: area.top, y2: area.bottom });
        element(svg, "text", { x: sx(value), y: area.bottom + 14, "text-anchor": "middle" }, shown(value, log ? 0 : xs[1] - xs[0]));
      }
      element(svg, "text", { x: area.right, y: height - 4, "text-anchor": "end" }, panel.x);
      let sy;
      if (y) {
        const ys = logY ? logTicks(y[0], y[1]) : ticks(y[0], y[1], Math.max(3, Math.floor((area.bottom - area.top) / 42)), 3);
        sy = scale(y[0], y[1], area.bottom, area.top, logY);
        for (const value of ys) {
          element(svg, "line", { class: "grid", x1: area.left, x2: area.right, y1: sy(value), y2: sy(value) });
          element(svg, "text", { x: area.left - 6, y: sy(value) + 4, "text-anchor": "end" }, logY ? power(value) : shown(value, ys[1] - ys[0]));
        }
        element(svg, "text", { x: 0, y: 10 }, panel.y);
      }
      element(svg, "line", { class: "axis", x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom });
      return [sx, sy];
    };
    const empty = () => element(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing selected");
    tip.hidden = true;
    if (panel.kind === "lines") {
      const lines = panel.lines.filter(visible);
      if (!lines.length) return empty();
      // Axes keep to all systems that are drawn in full; background curves may leave the frame.
      const main = lines.filter((line) => !line.faint);
      const ranged = main.length ? main : lines;
      const xs = lines.flatMap((line) => line.points.map((point) => point[0]));
      const x = panel.log_x ? [Math.min(...xs) / 1.15, Math.max(...xs) * 1.15] : extent(xs, false, 0.015);
      const heights = ranged.flatMap((line) => line.points.map((point) => point[1]));
      const y = panel.log_y ? [Math.min(...heights) / 1.3, Math.max(...heights) * 1.3] : extent(heights, panel.from_zero);
      const [sx, sy] = frame(x, y, panel.log_x, panel.log_y);
      const clip = `clip-${figure.id}-${figure.panels.indexOf(panel)}`;
      const rect = element(element(element(svg, "defs"), "clipPath", { id: clip }), "rect", { x: area.left, y: area.top - 4, width: area.right - area.left + 6, height: area.bottom - area.top + 8 });
      rect.setAttribute("fill", "none");
      const plot = element(svg, "g", { "clip-path": `url(#${clip})` });
      for (const line of [...lines].sort((a, b) => (b.faint || 0) - (a.faint || 0))) {
        const path = line.points.map((point, i) => `${i ? "L" : "M"}${sx(point[0]).toFixed(1)} ${sy(point[1]).toFixed(1)}`).join("");
        element(plot, "path", { class: line.faint ? "line faint" : "line", d: path, style: `stroke:${colour(line.system)}`, "data-system": line.system, ...broken(line.system) });
        if (!line.faint && line.points.length < 25)
          for (const point of line.points) element(plot, "circle", { cx: sx(point[0]), cy: sy(point[1]), r: 2.6, style: mark(line.system) });
      }
      const stops = [...new Set(ranged.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
      const cursor = element(svg, "line", { class: "cursor", y1: area.top, y2: area.bottom, visibility: "hidden" });
      return interact(svg, stops, sx, null, (stop) => {
        cursor.setAttribute("visibility", stop === null ? "hidden" : "visible");
        if (stop === null) return null;
        cursor.setAttribute("x1", sx(stop)); cursor.setAttribute("x2", sx(stop));
        const rows = ranged.filter((line) => stop >= line.points[0][0] && stop <= line.points[line.points.length - 1][0])
          .map((line) => [line.system, line.name, at(line.points, stop)]);
        const told = (rows.length > 12 ? averages(rows) : rows).sort((a, b) => b[2] - a[2]).map(([s, name, v]) => [s, name, exact(v)]);
        return { x: sx(stop), y: area.top, title: `${panel.x} ${exact(stop)}`, rows: told };
      });
    }
    if (panel.kind === "dots") {
      if (!dots.length) return empty();
      const all = dots.flatMap((dot) => [dot.value, dot.low, dot.high, dot.paper]).filter((value) => value !== null && value !== undefined);
      const [sx] = frame(extent(all, false, 0.08), null, false);
      const rowY = (i) => area.top + ((i + 0.5) * (area.bottom - area.top)) / dots.length;
      dots.forEach((dot, i) => {
        const y = rowY(i);
        const paint = colour(dot.system);
        element(svg, "text", { class: "name", x: area.left - 8, y: y + 4, "text-anchor": "end" }, dot.name);
        if (dot.low !== null && dot.low !== undefined) element(svg, "line", { x1: sx(dot.low), x2: sx(dot.high), y1: y, y2: y, style: `stroke:${paint}`, "stroke-width": 2.5, "stroke-linecap": "round" });
        element(svg, "circle", { cx: sx(dot.value), cy: y, r: 4.5, style: mark(dot.system), "data-system": dot.system });
        if (dot.paper !== null && dot.paper !== undefined) {
          const px = sx(dot.paper);
          element(svg, "path", { class: "diamond", d: `M${px} ${y - 5.5}l5.5 5.5l-5.5 5.5l-5.5-5.5z` });
        }
      });
      return interact(svg, dots.map((_, i) => i), null, rowY, (i) => {
        if (i === null) return null;
        const dot = dots[i];
        const rows = [[dot.system, "ours", exact(dot.value)]];
        if (dot.low !== null && dot.low !== undefined) rows.push([null, "95 % interval", `${exact(dot.low)} to ${exact(dot.high)}`]);
        if (dot.paper !== null && dot.paper !== undefined) rows.push([null, "the paper", exact(dot.paper)]);
        return { x: sx(dot.value), y: rowY(i), title: dot.name, rows };
      });
    }
    const spots = panel.spots.filter(visible).sort((a, b) => a.x - b.x || a.y - b.y);
    if (!spots.length) return empty();
    const rules = (panel.rules || []).filter(visible);
    const [sx, sy] = frame(extent(spots.map((s) => s.x), Math.min(...spots.map((s) => s.x)) >= 0, 0.1), extent([...spots, ...rules].map((s) => s.y), false, 0.12), false);
    const placed = spots.map((spot) => ({ x: sx(spot.x) - 6, y: sy(spot.y) - 6, w: 12, h: 12 }));
    const hits = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
    const free = (box) => box.x >= area.left && box.x + box.w <= area.right && box.y >= area.top - 8 && box.y + box.h <= area.bottom && !placed.some((other) => hits(box, other));
    const name = (text, box, anchor) => {
      placed.push(box);
      element(svg, "text", { class: "name", x: box.x + box.w * { start: 0, middle: 0.5, end: 1 }[anchor], y: box.y + 11, "text-anchor": anchor }, text);
    };
    for (const rule of rules) {
      const y = sy(rule.y);
      element(svg, "line", { class: "rule", x1: area.left, x2: area.right, y1: y, y2: y, style: `stroke:${colour(rule.system)}`, "data-system": rule.system });
      const w = rule.name.length * 7;
      // At one end of the line, above or below it; where spots are everywhere, on them.
      const places = [["end", -18], ["start", -18], ["end", 6], ["start", 6]].map(([anchor, by]) => ({ anchor, x: anchor === "end" ? area.right - w : area.left + 2, y: y + by, w, h: 14 }));
      const place = places.find(free) || places[0];
      name(rule.name, place, place.anchor);
      placed.push({ x: area.left, y: y - 1, w: area.right - area.left, h: 2 });
    }
    for (const spot of spots) {
      element(svg, "circle", { cx: sx(spot.x), cy: sy(spot.y), r: 5, style: mark(spot.system), "data-system": spot.system });
    }
    const named = new Set();
    for (const spot of spots) {
      if (named.has(spot.system)) continue;
      const text = labels[spot.system].label;
      const [w, x, y] = [text.length * 7.2, sx(spot.x), sy(spot.y)];
      // Beside the spot, else above or below it, where it covers neither a spot nor another name.
      const place = [["start", x + 9, y - 7], ["end", x - 9, y - 7], ["middle", x, y - 23], ["middle", x, y + 9], ["start", x + 6, y - 21], ["start", x + 6, y + 8], ["end", x - 6, y - 21], ["end", x - 6, y + 8]]
        .map(([anchor, at0, top]) => ({ anchor, x: at0 - w * { start: 0, middle: 0.5, end: 1 }[anchor], y: top, w, h: 14 }))
        .find(free);
      if (!place) continue;
      named.add(spot.system);
      name(text, place, place.anchor);
    }
    return interact(svg, spots.map((_, i) => i), (i) => sx(spots[i].x), (i) => sy(spots[i].y), (i) => {
      if (i === null) return null;
      const spot = spots[i];
      return { x: sx(spot.x), y: sy(spot.y), title: spot.name, rows: [[spot.system, panel.y, exact(spot.y)], [null, panel.x, exact(spot.x)], ...rules.map((rule) => [rule.system, rule.name, exact(rule.y)])] };
    });

    // Mouse, touch and arrow keys choose a stop; what is there is shown, and said aloud.
    function interact(target, stops, px, py, describe) {
      const place = (stop) => {
        const found = describe(stop);
        tip.hidden = !found;
        if (!found) return;
        tip.replaceChildren();
        html(tip, "strong", {}, found.title);
        for (const [system, name, value] of found.rows) {
          const row = html(tip, "div");
          if (system) html(row, "span", { class: keyClass(system), style: `--c:${colour(system)}` });
          html(row, "span", {}, name);
          html(row, "b", {}, value);
        }
        const room = box.parentElement.clientWidth;
        const ratio = target.getBoundingClientRect().width / width;
        const offset = target.getBoundingClientRect().left - box.parentElement.getBoundingClientRect().left;
        const x = offset + found.x * ratio;
        const tipWidth = tip.offsetWidth;
        tip.style.left = `${Math.max(4, x + 14 + tipWidth > room ? x - tipWidth - 14 : x + 14)}px`;
        tip.style.top = `${box.offsetTop + found.y * ratio + 8}px`;
      };
      let chosen = null;
      const nearest = (event) => {
        const bounds = target.getBoundingClientRect();
        const mx = ((event.clientX - bounds.left) * width) / bounds.width;
        const my = ((event.clientY - bounds.top) * height) / bounds.height;
        let best = null;
        let distance = Infinity;
        for (const stop of stops) {
          const d = Math.hypot(px ? px(stop) - mx : 0, py ? py(stop) - my : 0);
          if (d < distance) [best, distance] = [stop, d];
        }
        return best;
      };
      const choose = (stop) => { chosen = stop; place(stop); };
      target.addEventListener("pointermove", (event) => choose(nearest(event)));
      target.addEventListener("pointerdown", (event) => choose(nearest(event)));
      target.addEventListener("pointerleave", () => choose(null));
      box.onkeydown = (event) => {
        const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
        if (event.key === "Escape") return choose(null);
        if (by === undefined) return undefined;
        event.preventDefault();
        const now = chosen === null ? (by > 0 ? -1 : stops.length) : stops.indexOf(chosen);
        return choose(stops[Math.max(0, Math.min(stops.length - 1, now + by))]);
      };
      box.onblur = () => choose(null);
      return undefined;
    }
  };
  // Many runs: one row a system, its mean over runs.
  const averages = (rows) => {
    const groups = new Map();
    for (const [system, , value] of rows) groups.set(system, [...(groups.get(system) || []), value]);
    return [...groups].map(([system, values]) => [system, `${labels[system].label}, mean of ${values.length}`, values.reduce((a, b) => a + b) / values.length]);
  };
  const power = (value) => (value >= 1e5 || value < 1e-3 ? value.toExponential(0).replace("e+", "e").replace("-", "−") : String(+value.toPrecision(2)));
  const logTicks = (low, high) => {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const m of high / low > 300 ? [1] : [1, 2, 5]) {
        const value = m * 10 ** power;
        if (value >= low && value <= high) found.push(value);
      }
    const every = Math.ceil(found.length / 8);
    return found.filter((_, i) => i % every === 0);
  };
  const at = (points, x) => {
    let i = points.findIndex((point) => point[0] >= x);
    if (i <= 0) return points[Math.max(i, 0)][1];
    const [[x0, y0], [x1, y1]] = [points[i - 1], points[i]];
    return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0 || 1);
  };

  // ---- figures, their legends
  const legends = [];
  const refresh = () => {
    for (const button of legends) button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.system)));
    for (const item of document.querySelectorAll("[data-answer]")) item.hidden = hidden.has(item.dataset.answer);
    for (const button of document.querySelectorAll(".everything")) button.hidden = hidden.size === 0;
    for (const redraw of redraws) redraw();
  };
  const addLegend = (bar, systems, paper) => {
    for (const system of systems) {
      const button = html(bar, "button", { type: "button", "aria-pressed": "true", "data-system": system, title: "Click: show or hide. Double-click: this one alone." });
      html(button, "span", { class: keyClass(system), style: `--c:${colour(system)}` });
      button.append(labels[system].label);
      button.addEventListener("click", (event) => {
        if (event.detail > 1 && hidden.has(system) === button.alone) return;
        hidden.has(system) ? hidden.delete(system) : hidden.add(system);
        refresh();
      });
      button.addEventListener("dblclick", () => alone(system));
      button.addEventListener("keydown", (event) => {
        if (event.key === "o") alone(system);
      });
      legends.push(button);
    }
    const everything = html(bar, "button", { type: "button", class: "everything", hidden: "" }, "Show all");
    everything.addEventListener("click", () => { hidden.clear(); refresh(); bar.querySelector("button").focus(); });
    if (paper) html(bar, "span", { class: "mark" }, "◇ the paper");
  };
  const alone = (system) => {
    for (const other of Object.keys(labels)) other === system ? hidden.delete(other) : hidden.add(other);
    refresh();
  };
  for (const figure of figures) {
    const holder = document.getElementById(`figure-${figure.id}`);
    const systems = [...new Set(figure.panels.flatMap((p) => [...(p.lines || []), ...(p.dots || []), ...(p.spots || []), ...(p.rules || [])].map((item) => item.system)))].sort((a, b) => labels[a].index - labels[b].index);
    addLegend(holder.querySelector(".legend"), systems, figure.panels.some((p) => (p.dots || []).some((dot) => dot.paper !== null && dot.paper !== undefined)));
    const panels = holder.querySelector(".panels");
    panels.replaceChildren();
    panels.classList.toggle("single", figure.panels.length === 1);
    for (const panel of figure.panels) {
      const frame = html(panels, "div", { class: "panel" });
      if (panel.title) html(frame, "h4", {}, panel.title);
      const box = html(frame, "div", { tabindex: "0", role: "group", "aria-roledescription": "chart", "aria-label": `${panel.title || figure.alt.split(".")[0]}. Arrow keys read its values.` });
      const tip = html(frame, "div", { class: "tip", role: "status", hidden: "" });
      redraws.push(() => draw(panel, box, tip, figure));
      let last = 0;
      new ResizeObserver(() => {
        if (Math.abs(box.clientWidth - last) < 2) return;
        last = box.clientWidth;
        draw(panel, box, tip, figure);
      }).observe(box);
    }
  }
  for (const bar of document.querySelectorAll(".legend[data-systems]")) addLegend(bar, JSON.parse(bar.dataset.systems), false);

  // ---- page
  for (const button of document.querySelectorAll(".seed-toggle")) {
    button.hidden = false;
    const table = document.getElementById(button.getAttribute("aria-controls"));
    button.addEventListener("click", () => {
      const open = table.classList.toggle("hide-seeds") === false;
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "Hide seeds" : "Each seed";
    });
  }
  const theme = document.querySelector(".theme");
  const names = { "": "Theme: auto", light: "Theme: light", dark: "Theme: dark" };
  const stored = () => { try { return localStorage.getItem("vhcr-theme") || ""; } catch { return ""; } };
  const setTheme = (name) => {
    if (name) root.dataset.theme = name; else delete root.dataset.theme;
    theme.textContent = names[name];
    try { localStorage.setItem("vhcr-theme", name); } catch { /* a page from a file may not store */ }
  };
  setTheme(stored() in names ? stored() : "");
  theme.hidden = false;
  theme.addEventListener("click", () => setTheme({ "": "light", light: "dark", dark: "" }[root.dataset.theme || ""]));
  // Print what is folded away, but for the many further conversations.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open], .more, .more details)")];
    for (const item of opened) item.open = true;
  });
  addEventListener("afterprint", () => { for (const item of opened) item.open = false; });
})();
