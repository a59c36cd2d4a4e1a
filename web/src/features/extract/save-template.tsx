// Saves the choices as a template. Without a name the server makes one of what was chosen; a name that is taken can be
// replaced.
import { useMutation } from "@connectrpc/connect-query";
import { Save } from "lucide-react";
import { type FormEvent, useState } from "react";
import { problemOf } from "../../api/errors";
import { useRelist } from "../../api/lists";
import { type Template, TemplatesService } from "../../gen/millm/catalog/v1/templates_pb";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { Field } from "../../ui/field";
import { notify } from "../../ui/toasts";
import { type ExtractDraft, settingsOf } from "./draft";

interface Props {
  draft: ExtractDraft;
  onSaved(template: Template): void;
  onCancel(): void;
}

export function SaveTemplate({ draft, onSaved, onCancel }: Props) {
  const [handle, setHandle] = useState("");
  const [description, setDescription] = useState("");
  const relist = useRelist("templates");
  const done = {
    meta: { refusalShown: true },
    onSuccess: async (template: Template) => {
      void notify({ tone: "success", text: `The template ${template.handle} is saved.` });
      await relist();
      onSaved(template);
    },
  };
  const create = useMutation(TemplatesService.method.createTemplate, done);
  const replace = useMutation(TemplatesService.method.updateTemplate, done);
  const busy = create.isPending || replace.isPending;
  const refused = replace.error ?? create.error;
  const problem = refused && problemOf(refused);
  const taken = problem?.reason === "TEMPLATE_ALREADY_EXISTS" ? problem : undefined;
  const ofName = taken ?? (/handle|name/.test(problem?.metadata.field ?? "") ? problem : undefined);

  function change(set: (text: string) => void, text: string) {
    set(text);
    create.reset();
    replace.reset();
  }

  function submit(event: FormEvent) {
    event.preventDefault();
    if (!busy) {
      const template = { handle: handle.trim(), description: description.trim() };
      create.mutate({ template: { ...template, settings: settingsOf(draft) } });
    }
  }

  function replaceIt(id: string) {
    const template = {
      name: `templates/${id}`,
      description: description.trim(),
      settings: settingsOf(draft),
    };
    const paths = description.trim() === "" ? ["settings"] : ["settings", "description"];
    replace.mutate({ template, updateMask: { paths } });
  }

  return (
    <form noValidate onSubmit={submit} className="flex flex-col gap-3">
      <div className="grid items-start gap-3 sm:grid-cols-2">
        <Field
          label="Name"
          optional
          hint="Empty: made of hook points, layers, samples and the time."
          error={ofName?.message}
        >
          {(control) => (
            <input
              {...control}
              name="template-name"
              className="field"
              autoComplete="off"
              maxLength={255}
              value={handle}
              onChange={(event) => change(setHandle, event.target.value)}
            />
          )}
        </Field>
        <Field label="Description" optional>
          {(control) => (
            <input
              {...control}
              name="template-description"
              className="field"
              autoComplete="off"
              value={description}
              onChange={(event) => change(setDescription, event.target.value)}
            />
          )}
        </Field>
      </div>
      {problem && !ofName && (
        <Callout tone="bad" alert>
          {problem.message}
        </Callout>
      )}
      <div className="flex flex-wrap justify-end gap-2">
        <Button label="Cancel" onClick={onCancel} />
        {taken?.metadata.template_id && (
          <Button
            label="Replace it"
            look="danger"
            busy={replace.isPending}
            onClick={() => replaceIt(taken.metadata.template_id ?? "")}
          />
        )}
        <Button
          label="Save"
          icon={Save}
          look="primary"
          type="submit"
          data-testid="save-template-btn"
          busy={create.isPending}
        />
      </div>
    </form>
  );
}
