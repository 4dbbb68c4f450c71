// The switch between light and dark: as the system has it, until somebody chooses.
"use strict";
(function () {
  const root = document.documentElement;
  const names = ["auto", "light", "dark"];
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const show = (name) => {
    if (name === "auto") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", name);
    for (const button of document.querySelectorAll(".theme")) button.textContent = "Theme: " + name;
  };
  let now = names.includes(stored()) ? stored() : "auto";
  show(now);
  document.addEventListener("DOMContentLoaded", () => {
    show(now);
    for (const button of document.querySelectorAll(".theme")) {
      button.addEventListener("click", () => {
        now = names[(names.indexOf(now) + 1) % names.length];
        show(now);
        try { localStorage.setItem("theme", now); } catch { /* a page from disk may have no storage */ }
      });
    }
  });
})();
