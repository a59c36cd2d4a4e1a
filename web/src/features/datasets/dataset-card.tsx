// One dataset: where it comes from, what it holds, and what can be done with it.
import { Database, RotateCw, Rows3, Trash2 } from "lucide-react";
import { Suspense, useId, useState } from "react";
import { problemOfStatus } from "../../api/errors";
import { Source } from "../../gen/millm/catalog/v1/catalog_pb";
import { type Dataset, Dataset_State } from "../../gen/millm/catalog/v1/datasets_pb";
import type { AddDatasetProgress } from "../../gen/millm/downloader/v1/downloader_pb";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { formatBytesOf } from "../../ui/format";
import { lazily } from "../../ui/lazily";
import { Progress } from "../../ui/progress";
import { notify } from "../../ui/toasts";
import { useAddDataset } from "./additions";
import { factsOf, kindLabel, originOf, stateLabel } from "./describe";
import { retryOf } from "./draft";

const RowsDialog = lazily(() => import("./rows-dialog"), "RowsDialog");
const DeleteDatasetDialog = lazily(() => import("./delete-dataset-dialog"), "DeleteDatasetDialog");

interface Props {
  dataset: Dataset;
  // How far it is, if this page is adding it.
  addition: AddDatasetProgress | undefined;
}

export function DatasetCard({ dataset, addition }: Props) {
  const titleId = useId();
  const [open, setOpen] = useState<"rows" | "delete">();
  const [retrying, setRetrying] = useState(false);
  const add = useAddDataset();
  const { handle, state } = dataset;
  const close = () => setOpen(undefined);

  async function retry() {
    setRetrying(true);
    const refusal = await add(retryOf(dataset));
    setRetrying(false);
    if (refusal) {
      void notify({ tone: "error", text: refusal.message });
    }
  }

  return (
    <article
      aria-labelledby={titleId}
      data-testid="dataset-card"
      className="card flex min-w-0 flex-col gap-3 p-4"
    >
      <header className="flex items-start gap-3">
        <span
          className={`grid size-10 shrink-0 place-items-center rounded-full ${state === Dataset_State.ERROR ? "bg-bad-soft text-bad" : "bg-accent-soft text-accent"}`}
        >
          <Database aria-hidden className="size-5" />
        </span>
        <div className="min-w-0 flex-1">
          <div className="flex items-start justify-between gap-2">
            <h2 id={titleId} className="min-w-0 font-semibold wrap-anywhere">
              {handle}
            </h2>
            <StateBadge state={state} />
          </div>
          <p className="text-sm text-ink-soft tabular-nums">{factsOf(dataset)}</p>
          <p className="mt-0.5 flex min-w-0 items-baseline gap-2 text-xs text-ink-faint">
            {dataset.source === Source.LOCAL && (
              <span className="rounded bg-sunken px-1.5 py-px font-medium text-ink-soft">Local</span>
            )}
            <span className="min-w-0 font-mono wrap-anywhere">{originOf(dataset)}</span>
          </p>
        </div>
      </header>
      {state === Dataset_State.PENDING && <Standing handle={handle} addition={addition} />}
      {state === Dataset_State.ERROR && (
        <Callout tone="bad">
          {problemOfStatus(dataset.error)?.message ?? "The dataset could not be added."}
        </Callout>
      )}
      {dataset.columns.length > 0 && <Columns dataset={dataset} />}
      <footer className="mt-auto flex items-center justify-end gap-2">
        {state === Dataset_State.READY && (
          <Button
            label="Rows"
            icon={Rows3}
            aria-label={`Rows of ${handle}`}
            data-testid="rows-btn"
            onClick={() => setOpen("rows")}
          />
        )}
        {state === Dataset_State.ERROR && (
          <Button
            label="Retry"
            icon={RotateCw}
            look="primary"
            aria-label={`Retry ${handle}`}
            busy={retrying}
            onClick={() => void retry()}
          />
        )}
        <Button
          label="Delete"
          icon={Trash2}
          look="quiet"
          compact="always"
          className="max-sm:w-11"
          aria-label={`Delete ${handle}`}
          data-testid="delete-dataset-btn"
          onClick={() => setOpen("delete")}
        />
      </footer>
      <Suspense>
        {open === "rows" && <RowsDialog dataset={dataset} onClose={close} />}
        {open === "delete" && <DeleteDatasetDialog dataset={dataset} onClose={close} />}
      </Suspense>
    </article>
  );
}

const LOOKS: Partial<Record<Dataset_State, string>> = {
  [Dataset_State.PENDING]: "bg-warn-soft text-warn",
  [Dataset_State.READY]: "bg-good-soft text-good",
  [Dataset_State.ERROR]: "bg-bad-soft text-bad",
};

function StateBadge({ state }: { state: Dataset_State }) {
  return (
    <span
      data-testid="dataset-state"
      className={`shrink-0 rounded-full px-2.5 py-0.5 text-xs font-semibold ${LOOKS[state] ?? "bg-sunken text-ink-soft"}`}
    >
      {stateLabel(state)}
    </span>
  );
}

function Standing({ handle, addition }: { handle: string; addition: AddDatasetProgress | undefined }) {
  const done = Number(addition?.bytesDone ?? 0n);
  const total = Number(addition?.bytesTotal ?? 0n);
  const detail = addition?.detail ?? "";
  return (
    <div className="flex flex-col gap-1.5">
      <Progress label={`${handle}: being added`} fraction={total > 0 ? done / total : undefined} />
      <p className="flex flex-wrap justify-between gap-x-4 text-xs text-ink-soft tabular-nums">
        <span>{total > 0 && `${Math.floor((done / total) * 100)}% • ${formatBytesOf(done, total)}`}</span>
        <span>{detail && `${detail.charAt(0).toUpperCase()}${detail.slice(1)}`}</span>
      </p>
    </div>
  );
}

const MOST_COLUMNS = 12;

function Columns({ dataset }: { dataset: Dataset }) {
  const { columns, column: chosen } = dataset;
  return (
    <ul aria-label="Columns" className="flex flex-wrap gap-1.5 text-xs">
      {columns.slice(0, MOST_COLUMNS).map(({ name, kind }) => (
        <li
          key={name}
          className={`rounded px-1.5 py-0.5 wrap-anywhere ${name === chosen ? "bg-accent-soft font-medium text-accent-strong" : "bg-sunken text-ink-soft"}`}
        >
          <span className="font-mono">{name}</span> {kindLabel(kind)}
          {name === chosen && <span className="sr-only"> (read unless another is chosen)</span>}
        </li>
      ))}
      {columns.length > MOST_COLUMNS && (
        <li className="px-1.5 py-0.5 text-ink-faint">and {columns.length - MOST_COLUMNS} more</li>
      )}
    </ul>
  );
}
