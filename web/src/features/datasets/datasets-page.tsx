// The datasets: texts that activations are extracted over.
import { Database, Plus } from "lucide-react";
import { Suspense, useState } from "react";
import { useDatasets } from "../../api/lists";
import { Button } from "../../ui/button";
import { EmptyState } from "../../ui/empty-state";
import { plural } from "../../ui/format";
import { lazily } from "../../ui/lazily";
import { LoadFailure } from "../../ui/load-failure";
import { useAdditions } from "./additions";
import { DatasetCard } from "./dataset-card";

const AddDialog = lazily(() => import("./add-dialog"), "AddDialog");

export function DatasetsPage() {
  const { data, error, isFetching, refetch } = useDatasets();
  const additions = useAdditions();
  const [adding, setAdding] = useState(false);
  const add = () => setAdding(true);
  return (
    <div className="flex flex-col gap-4">
      <header className="flex flex-wrap items-center justify-between gap-x-4 gap-y-2">
        <h1 className="font-semibold">Datasets</h1>
        <div className="flex items-center gap-4">
          {data && data.length > 0 && (
            <p className="text-sm text-ink-faint tabular-nums">{plural(data.length, "dataset")}</p>
          )}
          <Button
            label="Add a dataset"
            icon={Plus}
            look="primary"
            data-testid="add-dataset-btn"
            onClick={add}
          />
        </div>
      </header>
      {data ? (
        data.length > 0 ? (
          <ul className="grid gap-4 md:grid-cols-2">
            {/* The newest first. */}
            {data.toReversed().map((dataset) => (
              <li key={dataset.name} className="grid min-w-0">
                <DatasetCard dataset={dataset} addition={additions.get(dataset.id)} />
              </li>
            ))}
          </ul>
        ) : (
          <EmptyState icon={Database} title="No datasets yet">
            Add a file of this machine, or the data files of a Hugging Face repository. Activations are
            extracted over its rows.
          </EmptyState>
        )
      ) : error ? (
        <LoadFailure cause={error} busy={isFetching} onRetry={() => void refetch()} />
      ) : (
        <div aria-hidden className="grid gap-4 md:grid-cols-2">
          <div className="card h-36 animate-pulse" />
          <div className="card h-36 animate-pulse" />
        </div>
      )}
      <Suspense>{adding && <AddDialog onClose={() => setAdding(false)} />}</Suspense>
    </div>
  );
}
