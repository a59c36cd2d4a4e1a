// One extraction: how it stands, what was chosen, its statistics, its files, and its replays.
import { ArrowLeft } from "lucide-react";
import { type ReactNode, useId } from "react";
import { Link, useNavigate, useParams } from "react-router";
import { type Extraction, Extraction_State } from "../../gen/millm/inspection/v1/inspection_pb";
import { LoadFailure } from "../../ui/load-failure";
import { ExtractionButtons } from "./buttons";
import { historyText, idOf, titleOf } from "./describe";
import { FilesTable } from "./files-table";
import { useExtraction, useReplays } from "./listing";
import { SettingsList } from "./settings-list";
import { ReplayResult, Standing } from "./standing";
import { StateBadge } from "./state-badge";
import { STATISTICS_FILE } from "./statistics";
import { StatisticsView } from "./statistics-view";

export function ExtractionPage() {
  const { id = "" } = useParams();
  const { extraction, error, isFetching, refetch } = useExtraction(id);
  return (
    <div className="flex flex-col gap-5">
      <Link
        to="/extractions"
        className="inline-flex items-center gap-1 self-start text-sm text-ink-soft hover:text-ink max-sm:min-h-11"
      >
        <ArrowLeft aria-hidden className="size-4" />
        Extractions
      </Link>
      {extraction ? (
        <Details extraction={extraction} />
      ) : (
        <>
          <h1 className="text-lg font-semibold">Extraction</h1>
          {error ? (
            <LoadFailure cause={error} busy={isFetching} onRetry={() => void refetch()} />
          ) : (
            <div aria-hidden className="card h-48 animate-pulse" />
          )}
        </>
      )}
    </div>
  );
}

function Details({ extraction }: { extraction: Extraction }) {
  const navigate = useNavigate();
  const { id, state, files, replayOf } = extraction;
  const statistics = files.find(({ name }) => name === STATISTICS_FILE);
  return (
    <>
      <section className="card flex flex-col gap-3 p-4 sm:p-5" data-testid="extraction">
        <div className="flex flex-wrap items-start justify-between gap-x-4 gap-y-1">
          <h1 className="min-w-0 text-lg font-semibold wrap-anywhere">{titleOf(extraction)}</h1>
          <StateBadge state={state} />
        </div>
        <p className="text-xs text-ink-faint tabular-nums">
          <span className="font-mono">{id}</span>
          {` • ${historyText(extraction)}`}
        </p>
        {replayOf !== "" && (
          <p className="text-sm">
            {"It does "}
            <Link
              to={`/extractions/${idOf(replayOf)}`}
              className="font-medium text-accent underline underline-offset-4"
            >
              {`extraction ${idOf(replayOf)}`}
            </Link>
            {" again, and compares the files."}
          </p>
        )}
        <Standing extraction={extraction} />
        <SettingsList extraction={extraction} />
        <div className="flex items-center justify-end gap-2">
          <ExtractionButtons
            extraction={extraction}
            onDeleted={() => void navigate("/extractions", { replace: true })}
          />
        </div>
      </section>
      {statistics && (
        <Section title="Statistics">
          <div className="card p-4 sm:p-5">
            <StatisticsView id={id} file={statistics} />
          </div>
        </Section>
      )}
      {files.length > 0 && (
        <Section title="Files">
          <FilesTable id={id} files={files} />
        </Section>
      )}
      {state === Extraction_State.SUCCEEDED && <Replays id={id} />}
    </>
  );
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  const titleId = useId();
  return (
    <section aria-labelledby={titleId} className="min-w-0">
      <h2 id={titleId} className="mb-3 font-semibold">
        {title}
      </h2>
      {children}
    </section>
  );
}

// What came of doing it again.
function Replays({ id }: { id: string }) {
  const replays = useReplays(id);
  if (replays.length === 0) {
    return null;
  }
  return (
    <Section title="Replays">
      <ul className="flex flex-col gap-2">
        {replays.map((extraction) => (
          <li key={extraction.id} className="card flex flex-col gap-2 p-3 text-sm">
            <p className="flex flex-wrap items-center justify-between gap-2">
              <Link
                to={`/extractions/${extraction.id}`}
                className="font-mono text-xs text-accent underline underline-offset-4"
              >
                {extraction.id}
              </Link>
              <StateBadge state={extraction.state} />
            </p>
            {extraction.replay && <ReplayResult replay={extraction.replay} />}
          </li>
        ))}
      </ul>
    </Section>
  );
}
