// A heading sorts its table by that column, again the other way round; rows without a value stay last.
const collator = new Intl.Collator("en", { numeric: true });

const valueOf = (row, column) => row.children[column].dataset.value;

function compare(a, b, direction, numeric) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return direction * (numeric ? a - b : collator.compare(a, b));
}

function sort(heading) {
  const descending = heading.ariaSort === "ascending";
  const column = [...heading.parentNode.children].indexOf(heading);
  const body = heading.closest("table").tBodies[0];
  body.append(...[...body.rows].sort((a, b) =>
    compare(valueOf(a, column), valueOf(b, column), descending ? -1 : 1, column > 0)));
  for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
  heading.ariaSort = descending ? "descending" : "ascending";
}

document.querySelectorAll("[data-sort]").forEach((button) =>
  button.addEventListener("click", () => sort(button.closest("th"))));
