// A labelled form control with its hint and its error, tied together for screen readers.
import { type ReactNode, useId } from "react";

interface Props {
  label: string;
  hint?: string;
  error?: string | undefined;
  optional?: boolean;
  children(control: { id: string; "aria-invalid"?: boolean; "aria-describedby"?: string }): ReactNode;
}

export function Field({ label, hint, error, optional = false, children }: Props) {
  const id = useId();
  const noteId = `${id}-note`;
  const note = error ?? hint;
  return (
    <div className="min-w-0">
      <label htmlFor={id} className="mb-1 block text-sm font-medium text-ink-soft">
        {label}
        {optional && <span className="font-normal text-ink-faint"> (optional)</span>}
      </label>
      {children({
        id,
        ...(error ? { "aria-invalid": true } : {}),
        ...(note ? { "aria-describedby": noteId } : {}),
      })}
      {note && (
        <p
          id={noteId}
          role={error ? "alert" : undefined}
          className={`mt-1 text-xs ${error ? "text-bad" : "text-ink-faint"}`}
        >
          {note}
        </p>
      )}
    </div>
  );
}
