// How the samples are made and written: everything but the model, the dataset, hook points and layers.
import { useId } from "react";
import { ActivationType } from "../../gen/millm/catalog/v1/templates_pb";
import { Field } from "../../ui/field";
import type { ExtractDraft, ExtractErrors, NumberField } from "./draft";

interface Props {
  draft: ExtractDraft;
  errors: ExtractErrors;
  onChange(part: Partial<ExtractDraft>): void;
}

const TYPES: [ActivationType, string][] = [
  [ActivationType.F32, "f32 – as computed"],
  [ActivationType.F16, "f16 – half the size"],
  [ActivationType.BF16, "bf16 – half the size"],
];

export function SettingsFields({ draft, errors, onChange }: Props) {
  const number = (field: NumberField, label: string, placeholder: string, hint: string) => (
    <NumberInput
      name={field}
      label={label}
      placeholder={placeholder}
      hint={hint}
      value={draft[field]}
      error={errors[field]}
      onChange={(value) => onChange({ [field]: value })}
    />
  );
  return (
    <div className="flex flex-col gap-4">
      <div className="grid items-start gap-4 sm:grid-cols-3">
        {number("maxSamples", "Max samples", "all", "Empty: the whole dataset.")}
        {number("sequenceLength", "Sequence length", "context", "Tokens of a sample. Empty: the context.")}
        {number("batchSize", "Batch size", "auto", "Samples at a time. Empty: chosen.")}
      </div>
      <div className="grid items-start gap-4 sm:grid-cols-2">
        <Field
          label="Positions"
          error={errors.positions}
          hint="all, last, or indices such as 0,5,-1, where -1 is the last token."
        >
          {(control) => (
            <input
              {...control}
              name="positions"
              className="field font-mono"
              placeholder="all"
              autoComplete="off"
              spellCheck={false}
              value={draft.positions}
              onChange={(event) => onChange({ positions: event.target.value })}
            />
          )}
        </Field>
        <Field label="Number type" hint="Statistics are of the numbers as computed.">
          {(control) => (
            <select
              {...control}
              name="dtype"
              className="field"
              value={draft.dtype}
              onChange={(event) => onChange({ dtype: Number(event.target.value) })}
            >
              {TYPES.map(([dtype, text]) => (
                <option key={dtype} value={dtype}>
                  {text}
                </option>
              ))}
            </select>
          )}
        </Field>
      </div>
      <div className="grid gap-x-6 gap-y-3 sm:grid-cols-2">
        <Box
          label="Pack"
          about="A sample holds several texts, one after the other, instead of one text and padding."
          checked={draft.pack}
          onChange={(pack) => onChange({ pack })}
        />
        <Box
          label="Split long texts"
          about="A text that is longer than a sample goes on in the next ones, instead of being cut."
          checked={draft.split}
          onChange={(split) => onChange({ split })}
        />
        <Box
          label="Chat template"
          about="Messages are rendered with the model’s chat template. A text becomes a user’s message."
          checked={draft.chatTemplate}
          onChange={(chatTemplate) => onChange({ chatTemplate })}
        />
        <Box
          label="Special tokens"
          about="Texts get the tokenizer’s own special tokens, such as BOS."
          checked={draft.specialTokens}
          onChange={(specialTokens) => onChange({ specialTokens })}
        />
      </div>
    </div>
  );
}

interface NumberProps {
  name: NumberField;
  label: string;
  placeholder: string;
  hint: string;
  value: string;
  error: string | undefined;
  onChange(value: string): void;
}

function NumberInput({ name, label, placeholder, hint, value, error, onChange }: NumberProps) {
  return (
    <Field label={label} hint={hint} error={error}>
      {(control) => (
        <input
          {...control}
          name={name}
          className="field tabular-nums"
          inputMode="numeric"
          autoComplete="off"
          placeholder={placeholder}
          value={value}
          onChange={(event) => onChange(event.target.value)}
        />
      )}
    </Field>
  );
}

interface BoxProps {
  label: string;
  about: string;
  checked: boolean;
  onChange(checked: boolean): void;
}

function Box({ label, about, checked, onChange }: BoxProps) {
  const aboutId = useId();
  return (
    <div>
      <label className="flex items-center gap-2 text-sm font-medium text-ink-soft max-sm:min-h-9">
        <input
          type="checkbox"
          className="size-4 shrink-0 accent-accent"
          aria-describedby={aboutId}
          checked={checked}
          onChange={(event) => onChange(event.target.checked)}
        />
        {label}
      </label>
      <p id={aboutId} className="pl-6 text-xs text-ink-faint">
        {about}
      </p>
    </div>
  );
}
