// The first page: get a model, and all models that there are.
import { PackageOpen } from "lucide-react";
import { useId } from "react";
import { useLive } from "../../api/context";
import { EmptyState } from "../../ui/empty-state";
import { formatBytes, plural } from "../../ui/format";
import { DownloadCard } from "../downloads/download-card";
import { ModelCard } from "./model-card";

export function ModelsPage() {
  return (
    <div className="flex flex-col gap-6">
      <h1 className="sr-only">Models</h1>
      <DownloadCard />
      <ModelList />
    </div>
  );
}

function ModelList() {
  const { models, listed, lost } = useLive();
  const titleId = useId();
  const disk = models.reduce((sum, model) => sum + (model.source === "hub" ? model.diskBytes : 0), 0);
  return (
    <section aria-labelledby={titleId} aria-busy={!listed}>
      <div className="mb-3 flex items-baseline justify-between gap-4">
        <h2 id={titleId} className="font-semibold">
          Your models
        </h2>
        {models.length > 0 && (
          <p className="text-sm tabular-nums text-ink-faint">
            {plural(models.length, "model")}
            {disk > 0 && ` • ${formatBytes(disk)} on disk`}
          </p>
        )}
      </div>
      {models.length > 0 ? (
        <div className="grid gap-4 md:grid-cols-2">
          {models.map((model) => (
            <ModelCard key={String(model.id)} model={model} />
          ))}
        </div>
      ) : listed ? (
        <NoModels />
      ) : (
        <Placeholder waiting={lost.includes("models")} />
      )}
    </section>
  );
}

function NoModels() {
  return (
    <EmptyState icon={PackageOpen} title="No models yet">
      Enter a Hugging Face repository above. miLLM downloads it, checks every file and makes it small enough
      to run here.
    </EmptyState>
  );
}

function Placeholder({ waiting }: { waiting: boolean }) {
  if (waiting) {
    return <p className="py-10 text-center text-sm text-ink-soft">Waiting for the server…</p>;
  }
  return (
    <div aria-hidden className="grid gap-4 md:grid-cols-2">
      <div className="card h-36 animate-pulse" />
      <div className="card h-36 animate-pulse" />
    </div>
  );
}
