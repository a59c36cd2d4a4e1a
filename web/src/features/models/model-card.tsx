// One model: what it is, how it stands, and what can be done with it.
import { Layers, Server } from "lucide-react";
import { Suspense, useId, useState } from "react";
import { Link } from "react-router";
import { asksForToken } from "../../api/errors";
import type { ModelView } from "../../api/join";
import type { MemoryEstimate } from "../../gen/millm/runtime/v1/runtime_pb";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { lazily } from "../../ui/lazily";
import { Progress } from "../../ui/progress";
import { notify } from "../../ui/toasts";
import { ArrivalProgress } from "../downloads/arrival-progress";
import { useModelActions } from "./actions";
import { DeleteButton, MainButton } from "./card-buttons";
import { factsOf, residenceText, stageText } from "./describe";
import { StatusBadge } from "./status-badge";

const DeleteDialog = lazily(() => import("./delete-dialog"), "DeleteDialog");
const MemoryDialog = lazily(() => import("./memory-dialog"), "MemoryDialog");
const ExtractDialog = lazily(() => import("../extract/extract-dialog"), "ExtractDialog");
const RetryDialog = lazily(() => import("./retry-dialog"), "RetryDialog");

type Open = { dialog: "delete" | "extract" | "retry" } | { dialog: "memory"; estimate: MemoryEstimate };

export function ModelCard({ model }: { model: ModelView }) {
  const actions = useModelActions(model);
  const [open, setOpen] = useState<Open>();
  const titleId = useId();
  const close = () => setOpen(undefined);

  async function retry() {
    if (asksForToken(model.problem)) {
      setOpen({ dialog: "retry" });
      return;
    }
    const refusal = await actions.retry("");
    if (asksForToken(refusal)) {
      setOpen({ dialog: "retry" });
    } else if (refusal) {
      void notify({ tone: "error", text: refusal.message });
    }
  }

  return (
    <article
      aria-labelledby={titleId}
      data-testid="model-card"
      className="card flex min-w-0 flex-col gap-3 p-4"
    >
      <header className="flex items-start gap-3">
        <span
          className={`grid size-10 shrink-0 place-items-center rounded-full ${model.status === "error" ? "bg-bad-soft text-bad" : "bg-accent-soft text-accent"}`}
        >
          <Server aria-hidden className="size-5" />
        </span>
        <div className="min-w-0 flex-1">
          <div className="flex items-start justify-between gap-2">
            <h3 id={titleId} className="min-w-0 font-semibold wrap-anywhere">
              {isThere(model) ? (
                <Link to={`/models/${model.id}`} className="underline-offset-4 hover:underline">
                  {model.handle}
                </Link>
              ) : (
                model.handle
              )}
            </h3>
            <StatusBadge status={model.status} />
          </div>
          <p className="text-sm text-ink-soft tabular-nums">{factsOf(model)}</p>
          <p className="mt-0.5 flex min-w-0 items-baseline gap-2 text-xs text-ink-faint">
            {model.source === "local" && (
              <span className="rounded bg-sunken px-1.5 py-px font-medium text-ink-soft">Local</span>
            )}
            <span className="min-w-0 font-mono wrap-anywhere">{model.origin}</span>
          </p>
        </div>
      </header>
      {model.quantizationReason !== "" && <Callout tone="info">{model.quantizationReason}</Callout>}
      <Standing model={model} />
      <footer className="mt-auto flex items-center justify-end gap-2">
        <span className="mr-auto text-xs text-ink-faint">{residenceFooter(model)}</span>
        {isExtractable(model) && (
          <Button
            label="Extract"
            icon={Layers}
            compact="phone"
            title="Extract activations"
            aria-label={`Extract activations from ${model.handle}`}
            data-testid="extract-btn"
            onClick={() => setOpen({ dialog: "extract" })}
          />
        )}
        <MainButton
          model={model}
          actions={actions}
          onLoad={() => actions.load((estimate) => setOpen({ dialog: "memory", estimate }))}
          onRetry={() => void retry()}
        />
        {!model.arrival && (
          <DeleteButton model={model} busy={actions.busy} onDelete={() => setOpen({ dialog: "delete" })} />
        )}
      </footer>
      <Suspense>
        {open?.dialog === "delete" && <DeleteDialog model={model} actions={actions} onClose={close} />}
        {open?.dialog === "extract" && <ExtractDialog model={model} onClose={close} />}
        {open?.dialog === "retry" && <RetryDialog model={model} actions={actions} onClose={close} />}
        {open?.dialog === "memory" && (
          <MemoryDialog
            model={model}
            estimate={open.estimate}
            onLoad={() => {
              close();
              actions.loadAnyway();
            }}
            onClose={close}
          />
        )}
      </Suspense>
    </article>
  );
}

// Whether its files are complete, so that it can be described.
function isThere(model: ModelView): boolean {
  return !model.arrival && model.failed !== "download";
}

// A model that is being loaded or unloaded, or that failed, has no activations to extract.
function isExtractable({ status }: ModelView): boolean {
  return status === "ready" || status === "loaded";
}

function residenceFooter(model: ModelView): string {
  return model.status === "loaded" ? residenceText(model) : "";
}

// What goes on, or what went wrong.
function Standing({ model }: { model: ModelView }) {
  if (model.arrival) {
    return <ArrivalProgress handle={model.handle} status={model.status} arrival={model.arrival} />;
  }
  if (model.status === "loading" || model.status === "unloading") {
    const fraction = model.status === "loading" ? model.residence?.fraction || undefined : undefined;
    return (
      <div className="flex flex-col gap-1.5">
        <Progress label={`${model.handle}: ${model.status}`} fraction={fraction} />
        <p className="text-xs text-ink-soft tabular-nums">
          {fraction !== undefined && `${Math.round(fraction * 100)}% • `}
          {stageText(model)}
        </p>
      </div>
    );
  }
  if (model.status === "error") {
    return <Callout tone="bad">{model.problem?.message ?? "Something went wrong."}</Callout>;
  }
  return null;
}
