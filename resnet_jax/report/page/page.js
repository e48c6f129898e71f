"use strict";
// What all parts of the page share.
const page = (function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  // Okabe and Ito's colours; on dark paper the same hues, lighter.
  const PALETTE = {
    light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"],
    dark: ["#4DA3DB", "#F08A4B", "#2FC39A", "#E09CC4", "#F0B93A", "#8CCBF0", "#FFFFFF"],
  };
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const isDark = () => scheme.matches && !printing;
  const colour = (group) => {
    const palette = PALETTE[isDark() ? "dark" : "light"];
    return palette[group.colour % palette.length];
  };
  const faint = (hex, alpha) =>
    "rgba(" + [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",") + "," + alpha + ")";
  // Plotly reads a few HTML tags in names; here names are text.
  const text = (s) => s.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const config = {
    responsive: true, displaylogo: false, typesetMath: false,
    displayModeBar: window.innerWidth < 600 ? false : "hover",
    showSendToCloud: false, plotlyServerURL: "",  // nothing leaves this page
    modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
  };

  function layout(more) {
    const dark = isDark();
    const ink = dark ? "#e6e8eb" : "#1c1f23";
    const line = dark ? "#353b43" : "#d8dce1";
    const axis = {
      gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true,
      title: { standoff: 8 },
    };
    const merged = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12, family: "system-ui, sans-serif" },
      margin: { l: 48, r: 12, t: 34, b: 44 }, hovermode: "closest",
      hoverlabel: { namelength: -1 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: dark ? "#a0a7b0" : "#5b626b", activecolor: ink },
      ...more,
    };
    for (const name of ["xaxis", "yaxis"]) {
      const own = (more && more[name]) || {};
      merged[name] = { ...axis, ...own, title: { ...axis.title, ...(own.title || {}) } };
    }
    return merged;
  }

  return {
    data, $, text, config, layout, colour, faint, isDark,
    palette: () => PALETTE[isDark() ? "dark" : "light"],
    checked: (id) => $(id).checked,
    setPrinting: (on) => { printing = on; },
    onScheme: (draw) => scheme.addEventListener("change", draw),
    draws: [],  // each part's way to draw itself anew
  };
})();
