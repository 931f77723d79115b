// Before anything is painted: the theme the reader chose, so that the page does not flash in the other one.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("publius.theme");
  } catch {
    // no storage: the system's theme it is
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
