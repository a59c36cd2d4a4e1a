// The card that gets a model: from Hugging Face by its repository id, or from a path on the server.

import { useMutation } from "@connectrpc/connect-query";
import { Download as DownloadIcon, Eye, FolderPlus, X } from "lucide-react";
import { type FormEvent, Suspense, useId, useRef, useState } from "react";
import { problemOf } from "../../api/errors";
import { Quantization } from "../../gen/millm/catalog/v1/catalog_pb";
import { Download_State, DownloaderService } from "../../gen/millm/downloader/v1/downloader_pb";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { Field } from "../../ui/field";
import { lazily } from "../../ui/lazily";
import { notify } from "../../ui/toasts";
import { type Draft, type DraftErrors, EMPTY_DRAFT, fieldOf, repoIdIn, requestOf, validate } from "./draft";
import { QuantizationSelect } from "./quantization-select";
import { RepoInput } from "./repo-input";
import { SourceSwitch } from "./source-switch";
import { TrustCheckbox } from "./trust-checkbox";

const PreviewDialog = lazily(() => import("./preview-dialog"), "PreviewDialog");

// Refusals are shown in the card; the request may hold a token, which is forgotten with the answer.
const IN_CARD = { meta: { refusalShown: true }, gcTime: 0 };

export function DownloadCard() {
  const [draft, setDraft] = useState<Draft>(EMPTY_DRAFT);
  // What this page has found wrong before asking.
  const [wrong, setWrong] = useState<DraftErrors>({});
  const preview = useMutation(DownloaderService.method.previewModel, IN_CARD);
  const start = useMutation(DownloaderService.method.startDownload, {
    ...IN_CARD,
    onSuccess: ({ handle, state }, { source }) => {
      if (source?.case === "localPath" && state === Download_State.SUCCEEDED) {
        void notify({ tone: "success", text: `${handle} was added.` });
      }
    },
  });
  const titleId = useId();
  const repoInput = useRef<HTMLInputElement>(null);
  const pathInput = useRef<HTMLInputElement>(null);
  const hub = draft.source === "hub";
  const busy = preview.isPending || start.isPending;

  const refused = start.error ?? preview.error;
  const problem = refused && problemOf(refused);
  const place = problem ? fieldOf(problem) : undefined;
  const errors: DraftErrors = problem && place ? { [place]: problem.message } : wrong;

  function change(part: Partial<Draft>) {
    setDraft((before) => ({ ...before, ...part }));
    setWrong({});
    forgetRefusals();
  }

  function forgetRefusals() {
    for (const call of [preview, start]) {
      if (call.isError) {
        call.reset();
      }
    }
  }

  // Whether the draft can be sent; otherwise the field to change gets the focus.
  function isReady(): boolean {
    const found = validate(draft);
    setWrong(found);
    forgetRefusals();
    if (Object.keys(found).length === 0) {
      return true;
    }
    (hub ? repoInput : pathInput).current?.focus();
    return false;
  }

  function showPreview() {
    if (isReady()) {
      preview.mutate({
        repoId: repoIdIn(draft.repo),
        file: draft.file,
        hfToken: draft.token.trim(),
        quantization: draft.quantization.hub,
        trustRemoteCode: draft.trustRemoteCode,
      });
    }
  }

  function startDownload() {
    if (!isReady()) {
      return;
    }
    start.mutate(requestOf(draft), {
      onSuccess: () => {
        start.reset();
        // The quantization and the source are how this person works; the rest was about this model.
        setDraft({ ...EMPTY_DRAFT, source: draft.source, quantization: draft.quantization });
      },
      onSettled: () => preview.reset(),
    });
  }

  function submit(event: FormEvent) {
    event.preventDefault();
    startDownload();
  }

  return (
    <section aria-labelledby={titleId} className="card p-4 sm:p-5">
      <form noValidate onSubmit={submit} className="flex flex-col gap-4">
        <div className="flex flex-wrap items-center justify-between gap-3">
          <h2 id={titleId} className="font-semibold">
            {hub ? "Download a model" : "Add a model"}
          </h2>
          <SourceSwitch value={draft.source} onChange={(source) => change({ source })} />
        </div>
        <div className="grid gap-4 sm:grid-cols-[minmax(0,1fr)_16rem]">
          {hub ? (
            <Field label="Hugging Face repository" error={errors.repo}>
              {(control) => (
                <RepoInput
                  control={control}
                  inputRef={repoInput}
                  value={draft.repo}
                  onChange={(repo) => change({ repo, file: "" })}
                />
              )}
            </Field>
          ) : (
            <Field
              label="Path on the server"
              error={errors.path}
              hint="A folder with config.json and safetensors, or one GGUF file. It stays where it is; a quantized copy is made when it is added."
            >
              {(control) => (
                <input
                  {...control}
                  ref={pathInput}
                  data-testid="path-input"
                  className="field font-mono"
                  placeholder="/path/to/model"
                  autoComplete="off"
                  autoCapitalize="off"
                  spellCheck={false}
                  value={draft.path}
                  onChange={(event) => change({ path: event.target.value })}
                />
              )}
            </Field>
          )}
          <QuantizationSelect
            source={draft.source}
            value={draft.quantization[draft.source]}
            onChange={(value) => change({ quantization: { ...draft.quantization, [draft.source]: value } })}
          />
        </div>
        {draft.file !== "" && <ChosenFile file={draft.file} onClear={() => change({ file: "" })} />}
        <div className="grid items-start gap-4 sm:grid-cols-2">
          {hub && (
            <Field
              label="Access token"
              optional
              error={errors.token}
              hint="For gated models. Used once, never stored."
            >
              {(control) => (
                <input
                  {...control}
                  type="password"
                  className="field font-mono"
                  placeholder="hf_…"
                  autoComplete="off"
                  value={draft.token}
                  onChange={(event) => change({ token: event.target.value })}
                />
              )}
            </Field>
          )}
          <div className={hub ? "sm:pt-8" : "-mt-1 sm:col-span-2"}>
            <TrustCheckbox
              checked={draft.trustRemoteCode}
              error={errors.trustRemoteCode}
              onChange={(trustRemoteCode) => change({ trustRemoteCode })}
            />
          </div>
        </div>
        {problem && !place && (
          <Callout tone="bad" alert>
            {problem.message}
          </Callout>
        )}
        <div className="flex justify-end gap-2 max-sm:*:flex-1">
          {hub && (
            <Button
              label="Preview"
              icon={Eye}
              data-testid="preview-btn"
              busy={preview.isPending}
              disabled={busy}
              onClick={showPreview}
            />
          )}
          <Button
            label={hub ? "Download" : "Add"}
            icon={hub ? DownloadIcon : FolderPlus}
            look="primary"
            type="submit"
            data-testid={hub ? "download-btn" : "add-btn"}
            busy={start.isPending}
            disabled={busy}
          />
        </div>
      </form>
      <Suspense>
        {preview.data && (
          <PreviewDialog
            preview={preview.data}
            quantization={draft.quantization.hub}
            file={draft.file}
            onChoose={(quantization) =>
              change({ quantization: { ...draft.quantization, hub: quantization }, file: "" })
            }
            onChooseFile={(file) =>
              change({ file, quantization: { ...draft.quantization, hub: Quantization.NATIVE } })
            }
            busy={start.isPending}
            onDownload={startDownload}
            onClose={() => preview.reset()}
          />
        )}
      </Suspense>
    </section>
  );
}

function ChosenFile({ file, onClear }: { file: string; onClear(): void }) {
  return (
    <p className="-mt-2 flex items-center gap-1 text-sm text-ink-soft">
      <span className="min-w-0 truncate">
        File: <span className="font-mono">{file}</span>
      </span>
      <Button label="Do not choose a file" icon={X} look="quiet" compact="always" onClick={onClear} />
    </p>
  );
}
