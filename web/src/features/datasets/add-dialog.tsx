// Adds a dataset: files of the server's machine, or of a repository on the hub.
import { FolderPlus } from "lucide-react";
import { type FormEvent, useId, useRef, useState } from "react";
import type { Problem } from "../../api/errors";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { Dialog } from "../../ui/dialog";
import { Field } from "../../ui/field";
import { SourceSwitch } from "../downloads/source-switch";
import { useAddDataset } from "./additions";
import {
  type DatasetDraft,
  type DatasetErrors,
  type DatasetField,
  EMPTY_DATASET,
  fieldOf,
  requestOf,
  validate,
} from "./draft";

export function AddDialog({ onClose }: { onClose(): void }) {
  const formId = useId();
  const form = useRef<HTMLFormElement>(null);
  const [draft, setDraft] = useState<DatasetDraft>(EMPTY_DATASET);
  const [wrong, setWrong] = useState<DatasetErrors>({});
  const [refusal, setRefusal] = useState<Problem>();
  const [busy, setBusy] = useState(false);
  const add = useAddDataset();
  const hub = draft.source === "hub";
  const place = refusal && fieldOf(refusal);
  const errors: DatasetErrors = refusal && place ? { [place]: refusal.message } : wrong;

  function change(part: Partial<DatasetDraft>) {
    setDraft((before) => ({ ...before, ...part }));
    setWrong({});
    setRefusal(undefined);
  }

  function focus(field: string | undefined) {
    form.current?.querySelector<HTMLInputElement>(`[name="${field}"]`)?.focus();
  }

  async function submit(event: FormEvent) {
    event.preventDefault();
    if (busy) {
      return;
    }
    const found = validate(draft);
    setWrong(found);
    setRefusal(undefined);
    const [first] = Object.keys(found);
    if (first) {
      focus(first);
      return;
    }
    setBusy(true);
    const problem = await add(requestOf(draft));
    setBusy(false);
    if (problem) {
      setRefusal(problem);
      focus(fieldOf(problem));
    } else {
      onClose();
    }
  }

  function text(field: DatasetField, label: string, more: Partial<TextProps> = {}) {
    return (
      <TextField
        name={field}
        label={label}
        value={draft[field]}
        error={errors[field]}
        onChange={(value) => change({ [field]: value })}
        {...more}
      />
    );
  }

  return (
    <Dialog
      title="Add a dataset"
      size="wide"
      onClose={onClose}
      actions={
        <>
          <Button label="Cancel" onClick={onClose} />
          <Button
            label="Add"
            icon={FolderPlus}
            look="primary"
            type="submit"
            form={formId}
            data-testid="submit-dataset-btn"
            busy={busy}
          />
        </>
      }
    >
      <form
        id={formId}
        ref={form}
        noValidate
        onSubmit={(event) => void submit(event)}
        className="flex flex-col gap-4"
      >
        <div className="self-start">
          <SourceSwitch value={draft.source} onChange={(source) => change({ source })} />
        </div>
        {refusal && !place && (
          <Callout tone="bad" alert>
            {refusal.message}
          </Callout>
        )}
        {hub ? (
          <>
            {text("repo", "Hugging Face dataset", { placeholder: "e.g., roneneldan/TinyStories" })}
            <div className="grid items-start gap-4 sm:grid-cols-3">
              {text("config", "Configuration", { optional: true, placeholder: "default" })}
              {text("split", "Split", { optional: true, placeholder: "train" })}
              {text("revision", "Revision", { optional: true, placeholder: "main" })}
            </div>
            {text("token", "Access token", {
              optional: true,
              hint: "For gated datasets. Used once, never stored.",
              placeholder: "hf_…",
              type: "password",
            })}
          </>
        ) : (
          text("path", "Path on the server", {
            placeholder: "/data/texts/*.jsonl",
            hint: "A .jsonl, .csv, .txt or .parquet file, a folder of them, or a pattern. The files stay where they are.",
          })
        )}
        <div className="grid items-start gap-4 sm:grid-cols-2">
          {text("name", "Name", { optional: true, hint: "Derived from the source unless given." })}
          {text("column", "Column to read", { optional: true, hint: "Found unless given." })}
        </div>
      </form>
    </Dialog>
  );
}

interface TextProps {
  name: DatasetField;
  label: string;
  value: string;
  error: string | undefined;
  onChange(value: string): void;
  hint?: string;
  optional?: boolean;
  placeholder?: string;
  type?: "text" | "password";
}

function TextField({ name, label, value, error, onChange, hint, optional, placeholder, type }: TextProps) {
  return (
    <Field label={label} error={error} {...(hint ? { hint } : {})} {...(optional ? { optional } : {})}>
      {(control) => (
        <input
          {...control}
          name={name}
          data-autofocus={name === "path" || name === "repo" || undefined}
          type={type ?? "text"}
          className="field font-mono"
          placeholder={placeholder}
          autoComplete="off"
          autoCapitalize="off"
          spellCheck={false}
          value={value}
          onChange={(event) => onChange(event.target.value)}
        />
      )}
    </Field>
  );
}
