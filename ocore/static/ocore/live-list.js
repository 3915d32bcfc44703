"use strict";
// A list with something under way is loaded again every few seconds, unless somebody is using it or looks elsewhere.
(() => {
  const PAUSE = 4000;
  const list = () => document.querySelector("#result_list");
  const busy = () => document.hidden || document.querySelector("#result_list input:checked")
    || list()?.contains(document.activeElement);
  const refresh = async () => {
    if (!list()?.querySelector("[data-active]")) return;
    if (!busy()) {
      try {
        const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
        if (answer.redirected || !answer.ok) return;
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector("#result_list tbody");
        if (fresh && !busy()) list().querySelector("tbody").replaceWith(fresh);
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // offline: try again
      }
    }
    setTimeout(refresh, PAUSE);
  };
  setTimeout(refresh, PAUSE);
})();
