// The layers, folded: what repeats is one line that opens to the layers that it stands for.
import { useMemo, useState } from "react";
import type { LayerDescription } from "../../gen/millm/inspection/v1/inspection_pb";
import { formatBytes, formatCount, plural } from "../../ui/format";
import { foldLayers, layoutOf, runText } from "./fold";
import { HookTable } from "./hook-table";
import { ModuleSection } from "./module-section";

export function LayerList({ layers }: { layers: readonly LayerDescription[] }) {
  const folded = useMemo(() => foldLayers(layers, layoutOf), [layers]);
  if (layers.length === 0) {
    return <p className="text-sm text-ink-soft">This model has no layers.</p>;
  }
  return (
    <ol className="flex flex-col gap-2">
      {folded.map((entry) =>
        entry.kind === "layer" ? (
          <LayerEntry key={entry.layer.layer} layer={entry.layer} />
        ) : (
          <li key={`run-${entry.layers[0]?.layer}`}>
            <Foldable
              summary={
                <>
                  <span className="font-medium">{runText(entry.layers, entry.like)}</span>
                  <span className="text-xs text-ink-faint tabular-nums">
                    {plural(entry.layers.length, "layer")}
                  </span>
                </>
              }
              dashed
            >
              <ol className="flex flex-col gap-2 p-3">
                {entry.layers.map((layer) => (
                  <LayerEntry key={layer.layer} layer={layer} />
                ))}
              </ol>
            </Foldable>
          </li>
        ),
      )}
    </ol>
  );
}

function LayerEntry({ layer }: { layer: LayerDescription }) {
  return (
    <li id={`layer-${layer.layer}`}>
      <Foldable
        summary={
          <>
            <span className="font-medium">L{layer.layer}</span>
            <span className="text-ink-soft">{`${layer.attention} • ${layer.mlp}`}</span>
            <span className="text-xs text-ink-faint tabular-nums sm:ml-auto">
              {`${formatCount(Number(layer.parameterCount))} parameters • ${formatBytes(Number(layer.weightsBytes))}`}
            </span>
          </>
        }
      >
        <div className="flex flex-col divide-y divide-line">
          {layer.modules.map((module) => (
            <ModuleSection key={module.name} module={module} />
          ))}
          <HookTable points={layer.hookPoints} />
        </div>
      </Foldable>
    </li>
  );
}

interface FoldableProps {
  summary: React.ReactNode;
  dashed?: boolean;
  children: React.ReactNode;
}

// What is inside is made when it is opened.
function Foldable({ summary, dashed = false, children }: FoldableProps) {
  const [open, setOpen] = useState(false);
  return (
    <details
      className={`min-w-0 overflow-hidden rounded-lg border bg-surface ${dashed ? "border-dashed border-line-strong" : "border-line"}`}
      onToggle={(event) => {
        // Of this one, not of one inside.
        if (event.target === event.currentTarget) {
          setOpen(event.currentTarget.open);
        }
      }}
    >
      <summary className="min-h-9 px-4 py-2 text-sm max-sm:min-h-11">
        <span className="inline-flex w-[calc(100%-1.5rem)] flex-wrap items-baseline gap-x-3 align-top">
          {summary}
        </span>
      </summary>
      {open && <div className="border-t border-line">{children}</div>}
    </details>
  );
}
