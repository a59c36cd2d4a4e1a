// Which dataset the activations are extracted over, and which of its columns.
import { Link } from "react-router";
import { problemOf } from "../../api/errors";
import { useDatasets } from "../../api/lists";
import { type Dataset, Dataset_State } from "../../gen/millm/catalog/v1/datasets_pb";
import { Callout } from "../../ui/callout";
import { Field } from "../../ui/field";
import { kindLabel, readableColumns, stateLabel } from "../datasets/describe";
import type { ExtractDraft, ExtractErrors } from "./draft";

interface Props {
  draft: ExtractDraft;
  errors: ExtractErrors;
  onChange(dataset: Dataset | undefined, column: string): void;
}

export function DatasetFields({ draft, errors, onChange }: Props) {
  const { data: datasets, error } = useDatasets();
  const chosen = datasets?.find(({ name }) => name === draft.dataset);
  if (error) {
    return <Callout tone="bad">{problemOf(error)?.message}</Callout>;
  }
  if (datasets?.length === 0) {
    return (
      <Callout tone="info">
        There is no dataset yet.{" "}
        <Link to="/datasets" className="font-medium underline underline-offset-4">
          Add one
        </Link>{" "}
        to extract activations over its rows.
      </Callout>
    );
  }
  return (
    <div className="grid items-start gap-4 sm:grid-cols-2">
      <Field label="Dataset" error={errors.dataset}>
        {(control) => (
          <select
            {...control}
            data-autofocus
            name="dataset"
            className="field"
            value={draft.dataset}
            onChange={(event) =>
              onChange(
                datasets?.find(({ name }) => name === event.target.value),
                "",
              )
            }
          >
            <option value="">{datasets ? "Choose a dataset" : "…"}</option>
            {datasets?.toReversed().map((dataset) => (
              <option
                key={dataset.name}
                value={dataset.name}
                disabled={dataset.state !== Dataset_State.READY}
              >
                {optionText(dataset)}
              </option>
            ))}
          </select>
        )}
      </Field>
      <Field label="Column" error={errors.column}>
        {(control) => (
          <select
            {...control}
            name="column"
            className="field"
            disabled={!chosen}
            value={draft.column}
            onChange={(event) => onChange(chosen, event.target.value)}
          >
            <option value="">{chosen?.column ? `${chosen.column} (the dataset’s own)` : "–"}</option>
            {chosen &&
              readableColumns(chosen)
                .filter(({ name }) => name !== chosen.column)
                .map(({ name, kind }) => (
                  <option key={name} value={name}>
                    {`${name} (${kindLabel(kind)})`}
                  </option>
                ))}
          </select>
        )}
      </Field>
    </div>
  );
}

function optionText({ handle, state, rows }: Dataset): string {
  return state === Dataset_State.READY
    ? `${handle} (${rows.toLocaleString("en")} rows)`
    : `${handle} (${stateLabel(state).toLowerCase()})`;
}
