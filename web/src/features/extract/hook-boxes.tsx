// The choice of hook points: the three usual ones, the model's others when asked for, and what a template named that
// the model does not list: it is shown, so that nothing is dropped silently.
import { X } from "lucide-react";
import { useId, useState } from "react";
import { Button } from "../../ui/button";
import { plural } from "../../ui/format";
import { MAIN_POINTS, type PointChoice } from "./points";

interface Props {
  others: readonly PointChoice[];
  chosen: readonly string[];
  error: string | undefined;
  onChange(points: string[]): void;
}

export function HookBoxes({ others, chosen, error, onChange }: Props) {
  const errorId = useId();
  const moreId = useId();
  const known = new Set([...MAIN_POINTS, ...others].map(({ name }) => name));
  const unknown = chosen.filter((name) => !known.has(name));
  const chosenOthers = others.filter(({ name }) => chosen.includes(name)).length;
  const [wish, setWish] = useState<boolean>();
  const open = wish ?? chosenOthers > 0;

  function set(name: string, checked: boolean) {
    onChange(checked ? [...chosen, name] : chosen.filter((each) => each !== name));
  }

  const boxes = (points: readonly PointChoice[]) =>
    points.map((point) => (
      <PointBox
        key={point.name}
        point={point}
        checked={chosen.includes(point.name)}
        onChange={(checked) => set(point.name, checked)}
      />
    ));

  return (
    <fieldset aria-describedby={error ? errorId : undefined} className="flex flex-col gap-2">
      <legend className="mb-1 text-sm font-medium text-ink-soft">Hook points</legend>
      <div className="grid gap-2 sm:grid-cols-3">{boxes(MAIN_POINTS)}</div>
      {unknown.length > 0 && (
        <ul aria-label="Other points by name" className="flex flex-wrap gap-2">
          {unknown.map((name) => (
            <li
              key={name}
              className="flex items-center gap-1 rounded-lg bg-sunken py-0.5 pr-0.5 pl-2.5 font-mono text-xs wrap-anywhere"
            >
              {name}
              <Button
                label={`Remove ${name}`}
                icon={X}
                look="quiet"
                compact="always"
                className="min-h-7! w-7!"
                onClick={() => set(name, false)}
              />
            </li>
          ))}
        </ul>
      )}
      {others.length > 0 && (
        <>
          <button
            type="button"
            aria-expanded={open}
            aria-controls={moreId}
            onClick={() => setWish(!open)}
            className="self-start py-1 text-sm text-accent underline underline-offset-4 max-sm:min-h-11"
          >
            {open ? "Fewer hook points" : "More hook points"}
            {chosenOthers > 0 && ` (${plural(chosenOthers, "chosen", "chosen")})`}
          </button>
          <div id={moreId} hidden={!open} className="grid gap-2 sm:grid-cols-2">
            {open && boxes(others)}
          </div>
        </>
      )}
      {error && (
        <p id={errorId} role="alert" className="text-xs text-bad">
          {error}
        </p>
      )}
    </fieldset>
  );
}

interface BoxProps {
  point: PointChoice;
  checked: boolean;
  onChange(checked: boolean): void;
}

function PointBox({ point, checked, onChange }: BoxProps) {
  const nameId = useId();
  const aboutId = useId();
  return (
    <label className="flex min-w-0 items-start gap-2 rounded-lg border border-line px-3 py-2 text-sm has-checked:border-accent has-checked:bg-accent-soft">
      <input
        type="checkbox"
        name={`point-${point.name}`}
        className="mt-0.5 size-4 shrink-0 accent-accent"
        aria-labelledby={nameId}
        aria-describedby={aboutId}
        checked={checked}
        onChange={(event) => onChange(event.target.checked)}
      />
      <span className="min-w-0">
        <span id={nameId} className={`font-medium ${point.label === point.name ? "font-mono" : ""}`}>
          {point.label}
        </span>
        <span id={aboutId} className="block text-xs text-ink-soft">
          {point.about}
          {!point.layered && " (of the whole model)"}
        </span>
      </span>
    </label>
  );
}
