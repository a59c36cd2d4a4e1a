// All extractions, the newest first.
import { Layers } from "lucide-react";
import { useId } from "react";
import { Link } from "react-router";
import type { Extraction } from "../../gen/millm/inspection/v1/inspection_pb";
import { Button } from "../../ui/button";
import { EmptyState } from "../../ui/empty-state";
import { LoadFailure } from "../../ui/load-failure";
import { ExtractionButtons } from "./buttons";
import { historyText, settingsText, titleOf } from "./describe";
import { useListing } from "./listing";
import { Standing } from "./standing";
import { StateBadge } from "./state-badge";

export function ExtractionsPage() {
  const { extractions, error, isFetching, retry, more } = useListing();
  return (
    <div className="flex flex-col gap-4">
      <h1 className="font-semibold">Extractions</h1>
      {extractions ? (
        extractions.length > 0 ? (
          <>
            <ul className="grid gap-4 md:grid-cols-2">
              {extractions.map((extraction) => (
                <li key={extraction.id} className="grid min-w-0">
                  <ExtractionCard extraction={extraction} />
                </li>
              ))}
            </ul>
            {more && <Button label="Show more" className="self-center" busy={isFetching} onClick={more} />}
          </>
        ) : (
          <EmptyState
            icon={Layers}
            title="No extractions yet"
            action={
              <Link to="/models" className="font-medium text-accent underline underline-offset-4">
                To the models
              </Link>
            }
          >
            Load a model and extract its activations over a dataset. The arrays and their statistics are here
            then.
          </EmptyState>
        )
      ) : error ? (
        <LoadFailure cause={error} busy={isFetching} onRetry={retry} />
      ) : (
        <div aria-hidden className="grid gap-4 md:grid-cols-2">
          <div className="card h-36 animate-pulse" />
          <div className="card h-36 animate-pulse" />
        </div>
      )}
    </div>
  );
}

function ExtractionCard({ extraction }: { extraction: Extraction }) {
  const titleId = useId();
  const { id, state, replayOf } = extraction;
  return (
    <article
      aria-labelledby={titleId}
      data-testid="extraction-card"
      className="card flex min-w-0 flex-col gap-3 p-4"
    >
      <header>
        <div className="flex items-start justify-between gap-2">
          <h2 id={titleId} className="min-w-0 font-semibold wrap-anywhere">
            <Link to={`/extractions/${id}`} className="hover:underline">
              {titleOf(extraction)}
            </Link>
          </h2>
          <StateBadge state={state} />
        </div>
        <p className="text-sm wrap-anywhere text-ink-soft">{settingsText(extraction)}</p>
        <p className="mt-0.5 text-xs text-ink-faint tabular-nums">
          {replayOf !== "" && (
            <span className="mr-2 rounded bg-sunken px-1.5 py-px font-medium text-ink-soft">Replay</span>
          )}
          {historyText(extraction)}
        </p>
      </header>
      <Standing extraction={extraction} />
      <footer className="mt-auto flex items-center justify-end gap-2">
        <ExtractionButtons extraction={extraction} />
      </footer>
    </article>
  );
}
