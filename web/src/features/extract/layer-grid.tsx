// The choice of layers: a grid of buttons, six in a row, and the same as text. Arrow keys walk the grid; with Shift, a
// click, Space or Enter takes all layers since the last one.
import { type KeyboardEvent, type MouseEvent, useId, useRef, useState } from "react";
import { Button } from "../../ui/button";
import { Field } from "../../ui/field";
import { plural } from "../../ui/format";
import { allLayers, formatLayers, parseLayers, toggled } from "./layers";

const COLUMNS = 6;

interface Props {
  count: number;
  // As written; may be wrong.
  text: string;
  // Of the server, or that none is chosen.
  error: string | undefined;
  onChange(text: string): void;
}

export function LayerGrid({ count, text, error, onChange }: Props) {
  const titleId = useId();
  const grid = useRef<HTMLDivElement>(null);
  // Where the Tab key enters the grid, and where a range begins.
  const [current, setCurrent] = useState(0);
  const [anchor, setAnchor] = useState<number>();
  const parsed = parseLayers(text, count);
  const layers = "layers" in parsed ? parsed.layers : new Set<number>();
  const wrong = "error" in parsed ? parsed.error : error;

  function choose(layer: number, event: MouseEvent) {
    onChange(formatLayers(toggled(layers, layer, event.shiftKey ? anchor : undefined), count));
    setAnchor(layer);
    setCurrent(layer);
  }

  function press(event: KeyboardEvent, layer: number) {
    const next = stepFrom(layer, event.key, count);
    if (next !== undefined) {
      event.preventDefault();
      setCurrent(next);
      grid.current?.querySelectorAll("button")[next]?.focus();
    }
  }

  return (
    <div className="flex flex-col gap-2">
      <div className="flex flex-wrap items-center justify-between gap-2">
        <h3 id={titleId} className="text-sm font-medium text-ink-soft">
          Layers
          <span role="status" className="ml-2 text-xs font-normal text-ink-faint tabular-nums">
            {`${layers.size} of ${plural(count, "layer")}`}
          </span>
        </h3>
        <div className="flex gap-2">
          <Button
            label="All"
            aria-label="Select all layers"
            onClick={() => onChange(formatLayers(allLayers(count), count))}
          />
          <Button label="None" aria-label="Deselect all layers" onClick={() => onChange("")} />
        </div>
      </div>
      {/* biome-ignore lint/a11y/useSemanticElements: a fieldset cannot be a grid that scrolls in every browser. */}
      <div
        ref={grid}
        role="group"
        aria-labelledby={titleId}
        data-testid="layer-grid"
        className="grid max-h-64 grid-cols-6 gap-1.5 overflow-y-auto p-0.5"
      >
        {Array.from({ length: count }, (_, layer) => (
          <button
            // biome-ignore lint/suspicious/noArrayIndexKey: a layer is its number.
            key={layer}
            type="button"
            aria-pressed={layers.has(layer)}
            tabIndex={layer === Math.min(current, count - 1) ? 0 : -1}
            onClick={(event) => choose(layer, event)}
            onKeyDown={(event) => press(event, layer)}
            className="min-h-9 rounded-md border border-line-strong bg-surface text-sm tabular-nums select-none hover:bg-sunken aria-pressed:border-transparent aria-pressed:bg-accent aria-pressed:text-on-accent aria-pressed:hover:bg-accent-strong max-sm:min-h-11"
          >
            L{layer}
          </button>
        ))}
      </div>
      <Field
        label="Layers as text"
        error={wrong}
        hint="Numbers and ranges, such as 0,5-10, or all. Shift and a click take a range above."
      >
        {(control) => (
          <input
            {...control}
            name="layers"
            className="field font-mono"
            placeholder="0,5-10"
            autoComplete="off"
            spellCheck={false}
            value={text}
            onChange={(event) => onChange(event.target.value)}
          />
        )}
      </Field>
    </div>
  );
}

const STEPS: Record<string, number> = {
  ArrowLeft: -1,
  ArrowRight: 1,
  ArrowUp: -COLUMNS,
  ArrowDown: COLUMNS,
};

// The layer that a key leads to; undefined for keys that lead nowhere.
function stepFrom(layer: number, key: string, count: number): number | undefined {
  if (key === "Home") {
    return 0;
  }
  if (key === "End") {
    return count - 1;
  }
  const next = layer + (STEPS[key] ?? 0);
  return next !== layer && next >= 0 && next < count ? next : undefined;
}
