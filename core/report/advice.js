// The map's points show their pictures: beside the pointer, or in place of the points.
// Invariant: without it the page says the same, and nothing is fetched.
(() => {
  "use strict";
  const pictures = JSON.parse(document.getElementById("pictures").textContent);
  const map = document.getElementById("map");
  if (map !== null) {
    const shown = document.getElementById("shown");
    const [image, caption] = shown.children;
    const show = (point) => {
      const picture = pictures[point.dataset.point];
      if (picture === undefined) image.removeAttribute("src");
      else image.src = picture;
      caption.textContent = point.querySelector("title").textContent;
      const [box, at] = [map.getBoundingClientRect(), point.getBoundingClientRect()];
      shown.hidden = false;
      const left = at.left - box.left, top = at.top - box.top;
      shown.style.left = `${left > box.width / 2 ? left - shown.offsetWidth - 6 : left + at.width + 6}px`;
      shown.style.top = `${Math.min(Math.max(top - 30, 0), box.height - shown.offsetHeight)}px`;
    };
    for (const kind of ["pointerover", "pointerdown"]) {
      map.addEventListener(kind, (event) => {
        const point = event.target.closest("[data-point]");
        if (point === null) shown.hidden = true;
        else show(point);
      });
    }
    map.addEventListener("pointerleave", () => { shown.hidden = true; });

    const made = (name, attributes, parent) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      return parent.appendChild(element);
    };
    const SIDE = 34;
    const withPictures = () => {
      for (const point of map.querySelectorAll("circle")) {
        const picture = pictures[point.dataset.point];
        if (picture === undefined) continue;
        const place = { x: point.getAttribute("cx") - SIDE / 2, y: point.getAttribute("cy") - SIDE / 2, width: SIDE, height: SIDE };
        const group = made("g", { "data-point": point.dataset.point, class: "pictured" }, map);
        group.appendChild(point.querySelector("title").cloneNode(true));
        made("image", { ...place, href: picture, preserveAspectRatio: "xMidYMid slice" }, group);
        made("rect", { ...place, stroke: point.getAttribute("fill") }, group);
      }
    };
    document.getElementById("as-pictures")?.addEventListener("change", (event) => {
      for (const group of map.querySelectorAll(".pictured")) group.remove();
      if (event.target.checked) withPictures();
    });
  }
  document.documentElement.dataset.ready = "yes";
})();
