// Starts an extraction: over which dataset, which layers and hook points, and how. Beneath the choices is what it takes.
import { useMutation, useQuery } from "@connectrpc/connect-query";
import { Play } from "lucide-react";
import { type FormEvent, useId, useMemo, useRef, useState } from "react";
import { useNavigate } from "react-router";
import { type Problem, problemOf } from "../../api/errors";
import type { ModelView } from "../../api/join";
import { InspectionService } from "../../gen/millm/inspection/v1/inspection_pb";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { Dialog } from "../../ui/dialog";
import { LoadFailure } from "../../ui/load-failure";
import { DatasetFields } from "./dataset-fields";
import {
  configOf,
  EMPTY_EXTRACT,
  type ExtractDraft,
  type ExtractErrors,
  fieldOf,
  validate,
  validateSettings,
  withColumn,
  withSettings,
} from "./draft";
import { useEstimate } from "./estimate";
import { EstimateLine, EstimateView } from "./estimate-view";
import { HookBoxes } from "./hook-boxes";
import { LayerGrid } from "./layer-grid";
import { parseLayers } from "./layers";
import { otherPoints } from "./points";
import { SettingsFields } from "./settings-fields";
import { TemplateBar } from "./template-bar";

interface Props {
  model: ModelView;
  onClose(): void;
}

export function ExtractDialog({ model, onClose }: Props) {
  const formId = useId();
  const form = useRef<HTMLFormElement>(null);
  const navigate = useNavigate();
  const description = useQuery(
    InspectionService.method.describeModel,
    { model: model.name },
    { staleTime: Number.POSITIVE_INFINITY },
  );
  const { data } = description;
  const [draft, setDraft] = useState(() => firstDraft(model));
  // Whether what is missing is told: only after a person has tried to start.
  const [tried, setTried] = useState(false);
  const others = useMemo(() => (data ? otherPoints(data) : []), [data]);
  const layerCount = data?.layers.length ?? 0;
  const found = validate(draft, others);
  const complete = data !== undefined && isEmpty(found) && "layers" in parseLayers(draft.layers, layerCount);
  const estimating = useEstimate(model, draft, complete);
  const start = useMutation(InspectionService.method.startExtraction, {
    meta: { refusalShown: true },
    onSuccess: ({ id }) => {
      onClose();
      void navigate(`/extractions/${id}`);
    },
  });
  const refusal = start.error ? (problemOf(start.error) ?? undefined) : undefined;
  const told = toldErrors(tried ? found : {}, [...estimating.obstacles, ...(refusal ? [refusal] : [])]);

  function change(next: ExtractDraft) {
    setDraft(next);
    if (start.isError) {
      start.reset();
    }
  }

  function submit(event: FormEvent) {
    event.preventDefault();
    setTried(true);
    if (complete && !start.isPending) {
      start.mutate({ config: configOf(model.name, draft) });
      return;
    }
    const [first = "layers"] = Object.keys(found);
    form.current?.querySelector<HTMLElement>(`[name="${first}"], [name^="${nameOf(first)}"]`)?.focus();
  }

  return (
    <Dialog
      title={`Extract activations from ${model.handle}`}
      size="large"
      onClose={onClose}
      actions={
        <>
          <EstimateLine {...estimating} />
          <Button label="Cancel" onClick={onClose} />
          <Button
            label="Start extraction"
            icon={Play}
            look="primary"
            type="submit"
            form={formId}
            data-testid="start-extraction-btn"
            busy={start.isPending}
            disabled={!data || (complete && estimating.obstacles.length > 0)}
          />
        </>
      }
    >
      {data ? (
        <div className="flex flex-col gap-5">
          <TemplateBar
            draft={draft}
            complete={isEmpty(validateSettings(draft, others))}
            onLoad={(settings) => change(withSettings(draft, settings))}
          />
          <form id={formId} ref={form} noValidate onSubmit={submit} className="flex flex-col gap-5">
            <DatasetFields
              draft={draft}
              errors={told}
              onChange={(dataset, column) => change(withColumn(draft, dataset, column))}
            />
            <LayerGrid
              count={layerCount}
              text={draft.layers}
              error={told.layers}
              onChange={(layers) => change({ ...draft, layers })}
            />
            <HookBoxes
              others={others}
              chosen={draft.points}
              error={told.points}
              onChange={(points) => change({ ...draft, points })}
            />
            <SettingsFields draft={draft} errors={told} onChange={(part) => change({ ...draft, ...part })} />
            <EstimateView {...estimating} />
            {refusal && !fieldOf(refusal) && (
              <Callout tone="bad" alert>
                {refusal.message}
              </Callout>
            )}
          </form>
        </div>
      ) : description.error ? (
        <LoadFailure
          cause={description.error}
          busy={description.isFetching}
          onRetry={() => void description.refetch()}
        />
      ) : (
        <div role="status" className="h-96 animate-pulse rounded-lg bg-sunken">
          <span className="sr-only">Reading the model…</span>
        </div>
      )}
    </Dialog>
  );
}

// The loaded model's context may be shorter than the usual length of a sample.
function firstDraft(model: ModelView): ExtractDraft {
  const context = model.residence?.contextLength ?? 0;
  const fits = context === 0 || context >= Number(EMPTY_EXTRACT.sequenceLength);
  return { ...EMPTY_EXTRACT, sequenceLength: fits ? EMPTY_EXTRACT.sequenceLength : "" };
}

function isEmpty(errors: ExtractErrors): boolean {
  return Object.keys(errors).length === 0;
}

// What is wrong, beside the fields that it is about.
function toldErrors(found: ExtractErrors, problems: readonly Problem[]): ExtractErrors {
  const errors = { ...found };
  for (const problem of problems) {
    const field = fieldOf(problem);
    if (field) {
      errors[field] ??= problem.message;
    }
  }
  return errors;
}

// Hook points have a box each.
function nameOf(field: string): string {
  return field === "points" ? "point-" : field;
}
