"use strict";
(function () {
  const draw = () => page.draws.forEach((one) => one());
  draw();
  page.onScheme(draw);
  window.addEventListener("beforeprint", () => { page.setPrinting(true); draw(); });
  window.addEventListener("afterprint", () => { page.setPrinting(false); draw(); });
  document.documentElement.dataset.ready = "yes";
})();
