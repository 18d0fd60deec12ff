// Before anything is painted: the theme that the visitor chose here, if any.
try {
  const chosen = localStorage.getItem("pq-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch { /* storage is forbidden: the system's theme it is */ }
