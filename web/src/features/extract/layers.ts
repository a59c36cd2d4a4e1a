// Choices of layers: as a set, as people write them ("0,5-10"), and as ranges are picked in the grid.

export type LayerSet = ReadonlySet<number>;

export function allLayers(count: number): LayerSet {
  return new Set(Array.from({ length: count }, (_, layer) => layer));
}

// "all", "0,5-10", or "" for none.
export function formatLayers(layers: LayerSet, count: number): string {
  if (count > 0 && layers.size === count) {
    return "all";
  }
  const parts: string[] = [];
  const sorted = [...layers].sort((a, b) => a - b);
  for (let from = 0; from < sorted.length; ) {
    let to = from;
    while (sorted[to + 1] === (sorted[to] ?? 0) + 1) {
      to += 1;
    }
    const [first, last] = [sorted[from], sorted[to]];
    // Two neighbours are as short with a comma.
    parts.push(first === last ? `${first}` : to === from + 1 ? `${first},${last}` : `${first}-${last}`);
    from = to + 1;
  }
  return parts.join(",");
}

export type ParsedLayers = { layers: LayerSet } | { error: string };

// Reads "all", numbers and ranges; the server reads them the same way. "" is no layer.
export function parseLayers(text: string, count: number): ParsedLayers {
  const trimmed = text.trim();
  if (trimmed === "") {
    return { layers: new Set() };
  }
  if (trimmed === "all") {
    return { layers: allLayers(count) };
  }
  const layers = new Set<number>();
  for (const part of trimmed.split(",")) {
    const found = /^\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?$/.exec(part);
    if (!found) {
      return { error: `“${shortened(part)}” is neither a layer nor a range of layers, such as 5-10.` };
    }
    const first = Number(found[1]);
    const last = Number(found[2] ?? found[1]);
    if (first > last) {
      return { error: `The range ${first}-${last} falls.` };
    }
    if (last >= count) {
      return { error: `Layer ${last} does not exist: this model has layers 0 to ${count - 1}.` };
    }
    for (let layer = first; layer <= last; layer += 1) {
      layers.add(layer);
    }
  }
  return { layers };
}

function shortened(text: string): string {
  const trimmed = text.trim();
  return trimmed.length > 20 ? `${trimmed.slice(0, 20)}…` : trimmed;
}

// The set after a click on a layer: it changes, and with `from` all layers between the two become as it is.
export function toggled(layers: LayerSet, layer: number, from?: number): LayerSet {
  const chosen = !layers.has(layer);
  const next = new Set(layers);
  const other = from ?? layer;
  for (let each = Math.min(layer, other); each <= Math.max(layer, other); each += 1) {
    if (chosen) {
      next.add(each);
    } else {
      next.delete(each);
    }
  }
  return next;
}
