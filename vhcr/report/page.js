// Draws the panels of #figures with Vega, and lets a reader choose systems, seeds and the theme.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const { panels, config } = JSON.parse(document.getElementById("figures").textContent);
  const buttons = [...document.querySelectorAll(".legend [data-system]")];
  const systems = [...new Set(buttons.map((button) => button.dataset.system))];
  const hidden = new Set();
  const views = [];
  const show = (view) => view.signal("shown", hidden.size ? systems.filter((name) => !hidden.has(name)) : null).runAsync();
  const refresh = () => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.system)));
    for (const item of document.querySelectorAll("[data-answer]")) item.hidden = hidden.has(item.dataset.answer);
    for (const button of document.querySelectorAll(".everything")) button.hidden = hidden.size === 0;
    views.forEach(show);
  };
  const alone = (name) => {
    for (const other of systems) other === name ? hidden.delete(other) : hidden.add(other);
    refresh();
  };
  for (const button of buttons) {
    const name = button.dataset.system;
    button.addEventListener("click", () => { hidden.delete(name) || hidden.add(name); refresh(); });
    button.addEventListener("dblclick", () => alone(name));
    button.addEventListener("keydown", (event) => { if (event.key === "o") alone(name); });
  }
  for (const bar of document.querySelectorAll(".legend")) {
    bar.hidden = false;
    bar.querySelector(".everything").addEventListener("click", () => { hidden.clear(); refresh(); bar.querySelector("button").focus(); });
  }
  // Without "ast", Vega would need a page that may evaluate text as code.
  const options = { actions: false, ast: true, config, logLevel: 1, renderer: "svg", tooltip: { theme: "custom" } };
  const drawn = Object.entries(panels).map(([id, spec]) =>
    vegaEmbed(document.getElementById(id), spec, options).then(({ view }) => { views.push(view); return hidden.size && show(view); }));
  Promise.all(drawn).then(() => root.classList.add("drawn"));

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
  // Print what is folded away, but for the many further conversations and the numbers of plots.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open], .more, .more details, .numbers-of)")];
    for (const item of opened) item.open = true;
  });
  addEventListener("afterprint", () => { for (const item of opened) item.open = false; });
})();
