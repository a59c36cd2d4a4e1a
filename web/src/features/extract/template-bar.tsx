// Templates: choices to take from, and to save as. Favourites come first.
import { useMutation } from "@connectrpc/connect-query";
import { Download, Save, Star, Trash2, Upload } from "lucide-react";
import { type ChangeEvent, useRef, useState } from "react";
import { problemOf } from "../../api/errors";
import { useRelist, useTemplates } from "../../api/lists";
import {
  type ExtractionSettings,
  type ImportTemplatesResponse,
  type Template,
  TemplatesService,
} from "../../gen/millm/catalog/v1/templates_pb";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { Field } from "../../ui/field";
import { notify } from "../../ui/toasts";
import type { ExtractDraft } from "./draft";
import { SaveTemplate } from "./save-template";
import { importText, readTemplates, saveText, templateFileName } from "./template-file";

interface Props {
  draft: ExtractDraft;
  // Whether the choices can be saved.
  complete: boolean;
  onLoad(settings: ExtractionSettings): void;
}

export function TemplateBar({ draft, complete, onLoad }: Props) {
  const { data: templates, error } = useTemplates();
  const relist = useRelist("templates");
  const [chosenName, setChosenName] = useState("");
  const [panel, setPanel] = useState<"save" | "delete">();
  const [imported, setImported] = useState<ImportTemplatesResponse>();
  const fileInput = useRef<HTMLInputElement>(null);
  const update = useMutation(TemplatesService.method.updateTemplate, { onSettled: relist });
  const remove = useMutation(TemplatesService.method.deleteTemplate, { onSettled: relist });
  const exporting = useMutation(TemplatesService.method.exportTemplates);
  const importing = useMutation(TemplatesService.method.importTemplates, { onSettled: relist });
  const chosen = templates?.find(({ name }) => name === chosenName);

  function choose(name: string) {
    setChosenName(name);
    setPanel(undefined);
    const settings = templates?.find((template) => template.name === name)?.settings;
    if (settings) {
      onLoad(settings);
    }
  }

  function toggleFavorite(template: Template) {
    const { name, etag, favorite } = template;
    update.mutate({ template: { name, etag, favorite: !favorite }, updateMask: { paths: ["favorite"] } });
  }

  function removeChosen(template: Template) {
    remove.mutate(
      { name: template.name, etag: template.etag },
      {
        onSuccess: () => {
          setChosenName("");
          setPanel(undefined);
        },
      },
    );
  }

  function exportThem() {
    exporting.mutate(
      { names: chosen ? [chosen.name] : [] },
      { onSuccess: ({ json }) => saveText(templateFileName(chosen?.handle), json) },
    );
  }

  async function importFile(event: ChangeEvent<HTMLInputElement>) {
    const [file] = event.target.files ?? [];
    // The same file can be chosen again.
    event.target.value = "";
    setImported(undefined);
    if (!file) {
      return;
    }
    try {
      importing.mutate({ json: await readTemplates(file) }, { onSuccess: setImported });
    } catch (cause) {
      void notify({ tone: "error", text: cause instanceof Error ? cause.message : String(cause) });
    }
  }

  return (
    <section aria-label="Templates" className="flex flex-col gap-3 rounded-lg bg-raised p-3">
      <div className="flex flex-wrap items-end gap-2">
        <div className="min-w-48 flex-1">
          <Field label="Template" error={error ? problemOf(error)?.message : undefined}>
            {(control) => (
              <select
                {...control}
                name="template"
                className="field"
                value={chosen?.name ?? ""}
                onChange={(event) => choose(event.target.value)}
              >
                <option value="">
                  {templates?.length === 0 ? "No templates yet" : "Start from a template"}
                </option>
                {templates?.map(({ name, handle, favorite }) => (
                  <option key={name} value={name}>
                    {favorite ? `★ ${handle}` : handle}
                  </option>
                ))}
              </select>
            )}
          </Field>
        </div>
        <div className="flex flex-wrap gap-1">
          {chosen && (
            <>
              <Button
                label={chosen.favorite ? "Favourite" : "Make it a favourite"}
                icon={Star}
                look="quiet"
                compact="always"
                aria-label={`Favourite: ${chosen.handle}`}
                aria-pressed={chosen.favorite}
                className="aria-pressed:*:fill-current aria-pressed:text-warn!"
                busy={update.isPending}
                onClick={() => toggleFavorite(chosen)}
              />
              <Button
                label="Delete"
                icon={Trash2}
                look="quiet"
                compact="always"
                aria-label={`Delete template ${chosen.handle}`}
                aria-expanded={panel === "delete"}
                onClick={() => setPanel(panel === "delete" ? undefined : "delete")}
              />
            </>
          )}
          <Button
            label="Save as…"
            icon={Save}
            compact="phone"
            aria-expanded={panel === "save"}
            disabled={!complete}
            onClick={() => setPanel(panel === "save" ? undefined : "save")}
          />
          <Button
            label="Export"
            icon={Download}
            compact="phone"
            aria-label={chosen ? `Export template ${chosen.handle}` : "Export all templates"}
            disabled={!templates || templates.length === 0}
            busy={exporting.isPending}
            onClick={exportThem}
          />
          <Button
            label="Import"
            icon={Upload}
            compact="phone"
            aria-label="Import templates from a file"
            busy={importing.isPending}
            onClick={() => fileInput.current?.click()}
          />
          <input
            ref={fileInput}
            type="file"
            accept=".json,application/json"
            aria-label="File of templates"
            data-testid="template-file"
            hidden
            onChange={(event) => void importFile(event)}
          />
        </div>
      </div>
      {chosen && chosen.description !== "" && (
        <p className="text-xs whitespace-pre-wrap wrap-anywhere text-ink-soft">{chosen.description}</p>
      )}
      {panel === "save" && (
        <SaveTemplate
          draft={draft}
          onSaved={({ name }) => {
            setChosenName(name);
            setPanel(undefined);
          }}
          onCancel={() => setPanel(undefined)}
        />
      )}
      {panel === "delete" && chosen && (
        <div className="flex flex-wrap items-center justify-end gap-2">
          <p className="mr-auto wrap-anywhere">{`Delete the template “${chosen.handle}”?`}</p>
          <Button label="Keep" onClick={() => setPanel(undefined)} />
          <Button
            label="Delete"
            icon={Trash2}
            look="danger"
            data-testid="confirm-delete-template-btn"
            busy={remove.isPending}
            onClick={() => removeChosen(chosen)}
          />
        </div>
      )}
      {imported && <Imported result={imported} />}
    </section>
  );
}

const MOST_SKIPPED = 20;

function Imported({ result }: { result: ImportTemplatesResponse }) {
  const { skipped } = result;
  return (
    <Callout tone={skipped.length > 0 ? "warn" : "info"} alert>
      <p>{importText(result)}</p>
      {skipped.length > 0 && (
        <ul className="mt-1 list-disc pl-4">
          {skipped.slice(0, MOST_SKIPPED).map(({ handle, reason }, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: names may come twice in a file.
            <li key={index}>{`${handle}: ${reason}`}</li>
          ))}
          {skipped.length > MOST_SKIPPED && <li>{`and ${skipped.length - MOST_SKIPPED} more`}</li>}
        </ul>
      )}
    </Callout>
  );
}
