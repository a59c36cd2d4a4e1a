// Tries a download again with a token: the one given before was used once and forgotten.
import { RotateCw } from "lucide-react";
import { type FormEvent, useId, useState } from "react";
import { asksForToken } from "../../api/errors";
import type { ModelView } from "../../api/join";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { Dialog } from "../../ui/dialog";
import { Field } from "../../ui/field";
import type { ModelActions } from "./actions";

interface Props {
  model: ModelView;
  actions: ModelActions;
  onClose(): void;
}

export function RetryDialog({ model, actions, onClose }: Props) {
  const formId = useId();
  const [token, setToken] = useState("");
  const [refusal, setRefusal] = useState(model.problem);

  async function submit(event: FormEvent) {
    event.preventDefault();
    const problem = await actions.retry(token.trim());
    if (problem) {
      setRefusal(problem);
    } else {
      onClose();
    }
  }

  return (
    <Dialog
      title={`Retry ${model.handle}`}
      onClose={onClose}
      actions={
        <>
          <Button label="Not now" onClick={onClose} />
          <Button
            label="Retry"
            icon={RotateCw}
            look="primary"
            type="submit"
            form={formId}
            busy={actions.busy.has("retry")}
          />
        </>
      }
    >
      <form id={formId} onSubmit={(event) => void submit(event)} className="flex flex-col gap-4">
        {refusal && (
          <Callout tone={asksForToken(refusal) ? "warn" : "bad"} alert>
            {refusal.message}
          </Callout>
        )}
        <Field label="Access token" hint="Used once, never stored.">
          {(control) => (
            <input
              {...control}
              data-autofocus
              type="password"
              className="field font-mono"
              placeholder="hf_…"
              autoComplete="off"
              value={token}
              onChange={(event) => setToken(event.target.value)}
            />
          )}
        </Field>
      </form>
    </Dialog>
  );
}
