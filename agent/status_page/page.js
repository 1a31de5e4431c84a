// Every 15 seconds the page is fetched again and its parts are exchanged: what is open, focused or selected stays so.
(() => {
  const everyMs = 15000;
  const old = document.getElementById("old");
  const exchange = (id, next) => {
    const here = document.getElementById(id), there = next.getElementById(id);
    if (!here || !there || here.innerHTML === there.innerHTML) return;
    const open = new Map([...here.querySelectorAll("details")].map((one) => [one.dataset.key, one.open]));
    const focused = here.contains(document.activeElement) && document.activeElement.closest("details")?.dataset.key;
    here.innerHTML = there.innerHTML;
    for (const one of here.querySelectorAll("details")) {
      one.open = open.get(one.dataset.key) ?? one.open;
      if (focused && one.dataset.key === focused) one.firstElementChild.focus({ preventScroll: true });
    }
  };
  const turn = async () => {
    if (document.hidden || String(getSelection())) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.status);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const id of ["state", "at", "main"]) exchange(id, next);
      document.title = next.title;
      old.hidden = true;
    } catch {
      old.hidden = false;
    }
  };
  setInterval(turn, everyMs);
  document.addEventListener("visibilitychange", turn);
  setTimeout(turn, 2000);
})();
