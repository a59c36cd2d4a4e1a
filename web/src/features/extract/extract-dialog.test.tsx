import { Code, ConnectError } from "@connectrpc/connect";
import { screen, waitFor, within } from "@testing-library/react";
import { expect, test, vi } from "vitest";
import { sampleDataset, sampleDescription, sampleTemplate } from "../../api/inspection-samples";
import { joinModels } from "../../api/join";
import { rowOf, sampleLoad, sampleRow, sampleStatus } from "../../api/samples";
import { renderWith } from "../../app/test-page";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb";
import type {
  CreateTemplateRequest,
  Template,
  UpdateTemplateRequest,
} from "../../gen/millm/catalog/v1/templates_pb";
import type { ExtractionConfig } from "../../gen/millm/inspection/v1/inspection_pb";
import { ExtractDialog } from "./extract-dialog";

const load = sampleLoad();
const [MODEL] = joinModels([rowOf(sampleRow(), undefined, load)], new Map(), [load]);

interface Server {
  templates?: Template[];
  obstacles?: ReturnType<typeof sampleStatus>[];
  refusal?: ConnectError;
}

function dialog({ templates = [], obstacles = [], refusal }: Server = {}) {
  if (!MODEL) {
    throw new Error("nothing to extract from");
  }
  const started: ExtractionConfig[] = [];
  const estimated: ExtractionConfig[] = [];
  const created: CreateTemplateRequest[] = [];
  const updated: UpdateTemplateRequest[] = [];
  const onClose = vi.fn();
  const state = { templates };
  const user = renderWith(<ExtractDialog model={MODEL} onClose={onClose} />, {
    inspection: {
      describeModel: () => sampleDescription(),
      estimateExtraction({ config }) {
        if (config) {
          estimated.push(config);
        }
        return {
          samples: 1000n,
          sequenceLength: 512,
          batchSize: 8,
          points: config?.settings?.points ?? [],
          diskBytes: 9_000_000_000n,
          availableDiskBytes: 120_000_000_000n,
          memoryBytes: 150_000_000n,
          obstacles,
        };
      },
      startExtraction({ config }) {
        if (refusal) {
          throw refusal;
        }
        if (config) {
          started.push(config);
        }
        return { id: "a1" };
      },
    },
    datasets: { listDatasets: () => ({ datasets: [sampleDataset()] }) },
    templates: {
      listTemplates: () => ({ templates: state.templates }),
      createTemplate(request) {
        created.push(request);
        const made = sampleTemplate({ id: 9n, handle: request.template?.handle || "residual_layers0-0" });
        state.templates = [...state.templates, made];
        return made;
      },
      updateTemplate(request) {
        updated.push(request);
        state.templates = state.templates.map((template) => ({
          ...template,
          favorite: request.template?.favorite ?? false,
        }));
        return state.templates[0] ?? sampleTemplate();
      },
      deleteTemplate({ name }) {
        state.templates = state.templates.filter((template) => template.name !== name);
        return {};
      },
      exportTemplates: () => ({ json: '{"version": 1}' }),
      importTemplates: () => ({
        created: [sampleTemplate()],
        skipped: [{ handle: "odd", reason: "unknown field `speed`" }],
      }),
    },
  });
  return { user, started, estimated, created, updated, onClose };
}

type User = ReturnType<typeof dialog>["user"];

const grid = () => screen.findByTestId("layer-grid");
const layer = (number: number) => screen.getByRole("button", { name: `L${number}` });
const chosen = () =>
  screen
    .getAllByRole("button", { pressed: true })
    .map((button) => button.textContent)
    .filter((text) => text?.startsWith("L"));
const text = () => screen.getByLabelText<HTMLInputElement>("Layers as text");
const start = () => screen.getByTestId<HTMLButtonElement>("start-extraction-btn");

async function chooseDataset(user: User) {
  await screen.findByRole("option", { name: "tiny-stories (1,000 rows)" });
  await user.selectOptions(screen.getByLabelText("Dataset"), "datasets/3");
}

test("layers are chosen by clicks, ranges, keys and text", async () => {
  const { user } = dialog();
  expect(within(await grid()).getAllByRole("button")).toHaveLength(12);
  await user.click(layer(2));
  await user.keyboard("{Shift>}");
  await user.click(layer(5));
  await user.keyboard("{/Shift}");
  expect(chosen()).toEqual(["L2", "L3", "L4", "L5"]);
  expect(text().value).toBe("2-5");

  await user.keyboard("{ArrowDown}");
  expect(document.activeElement).toBe(layer(11));
  await user.keyboard("{ArrowRight}{ArrowLeft} ");
  expect(text().value).toBe("2-5,10");

  await user.clear(text());
  await user.type(text(), "0,7-8");
  expect(chosen()).toEqual(["L0", "L7", "L8"]);
  await user.type(text(), "-9");
  expect(text().getAttribute("aria-invalid")).toBe("true");

  await user.click(screen.getByRole("button", { name: "Select all layers" }));
  expect(text().value).toBe("all");
  await user.click(screen.getByRole("button", { name: "Deselect all layers" }));
  expect(text().value).toBe("");
});

test("the estimate follows the choices, and what is started is what was chosen", async () => {
  const { user, estimated, started, onClose } = dialog();
  await chooseDataset(user);
  await user.type(text(), "0,5-10");
  await user.click(screen.getByLabelText("MLP output"));
  await user.click(screen.getByText("More hook points"));
  await user.click(screen.getByLabelText("logits"));
  const figures = await screen.findByTestId("estimate");
  expect(figures.textContent).toContain("9.0 of 120 GB free");
  await waitFor(() =>
    expect(estimated.at(-1)?.settings).toMatchObject({
      points: ["residual", "mlp", "logits"],
      layers: "0,5-10",
    }),
  );
  await user.clear(screen.getByLabelText("Max samples"));
  await user.type(screen.getByLabelText("Batch size"), "4");
  await user.type(screen.getByLabelText("Positions"), "last");
  await user.selectOptions(screen.getByLabelText("Number type"), "f16 – half the size");
  await user.click(screen.getByLabelText("Pack"));
  await user.click(start());
  await waitFor(() => expect(started).toHaveLength(1));
  expect(started[0]).toMatchObject({
    model: "models/7",
    dataset: "datasets/3",
    settings: {
      points: ["residual", "mlp", "logits"],
      layers: "0,5-10",
      maxSamples: 0n,
      sequenceLength: 512,
      batchSize: 4,
      positions: "last",
      dtype: 2,
      pack: true,
    },
  });
  expect(onClose).toHaveBeenCalled();
});

test("what is missing is told when one tries to start", async () => {
  const { user, estimated, started } = dialog();
  await grid();
  await user.click(start());
  expect(screen.getByText("Choose a dataset.")).toBeTruthy();
  expect(screen.getByText("Choose at least one layer.")).toBeTruthy();
  expect(document.activeElement).toBe(screen.getByLabelText("Dataset"));
  expect([estimated, started]).toEqual([[], []]);
});

test("obstacles are told in the server's words, and prevent the start", async () => {
  const { user } = dialog({
    obstacles: [sampleStatus("INSUFFICIENT_DISK", "Insufficient disk space. Need 9.00 GB.")],
  });
  await chooseDataset(user);
  await user.type(text(), "0");
  const estimate = screen.getByRole("region", { name: "Estimate" });
  expect(await within(estimate).findByText("Insufficient disk space. Need 9.00 GB.")).toBeTruthy();
  expect(start().disabled).toBe(true);
});

test("a refusal is shown beside its field", async () => {
  const value = { reason: "INVALID_ARGUMENT", metadata: { field: "settings.sequence_length" } };
  const message = "'settings.sequence_length' is 512, and the context holds 256 tokens.";
  const refusal = new ConnectError(message, Code.InvalidArgument, undefined, [
    { desc: ErrorInfoSchema, value },
  ]);
  const { user } = dialog({ refusal });
  await chooseDataset(user);
  await user.type(text(), "0");
  await screen.findByTestId("estimate");
  await user.click(start());
  expect(await screen.findByText(message)).toBeTruthy();
  expect(screen.getByLabelText("Sequence length").getAttribute("aria-invalid")).toBe("true");
});

test("messages turn the chat template on", async () => {
  const { user } = dialog();
  await chooseDataset(user);
  await user.selectOptions(screen.getByLabelText("Column"), "chat (messages)");
  expect(screen.getByLabelText<HTMLInputElement>("Chat template").checked).toBe(true);
});

test("a template fills the choices; what the model does not list stays visible", async () => {
  const template = sampleTemplate({
    favorite: true,
    description: "For probes",
    settings: { points: ["resid_post", "attn.3"], layers: "0-3,11", maxSamples: 200n },
  });
  const { user, updated } = dialog({ templates: [template] });
  const option = await screen.findByRole("option", { name: `★ ${template.handle}` });
  await user.selectOptions(screen.getByLabelText("Template"), option);
  expect(text().value).toBe("0-3,11");
  expect(screen.getByLabelText<HTMLInputElement>("Residual stream").checked).toBe(true);
  expect(screen.getByLabelText<HTMLInputElement>("Max samples").value).toBe("200");
  expect(screen.getByText("For probes")).toBeTruthy();
  await user.click(screen.getByRole("button", { name: "Remove attn.3" }));
  expect(screen.queryByText("attn.3")).toBeNull();

  const star = screen.getByRole("button", { name: `Favourite: ${template.handle}` });
  expect(star.getAttribute("aria-pressed")).toBe("true");
  await user.click(star);
  await screen.findByRole("option", { name: template.handle });
  expect(updated[0]).toMatchObject({
    template: { name: "templates/5", etag: "e1", favorite: false },
    updateMask: { paths: ["favorite"] },
  });
});

test("choices are saved as a template, whose name the server makes", async () => {
  const { user, created } = dialog();
  await grid();
  const save = screen.getByRole<HTMLButtonElement>("button", { name: "Save as…" });
  expect(save.disabled).toBe(true);
  await user.type(text(), "0");
  await user.click(save);
  await user.type(screen.getByLabelText(/^Description/), "For probes");
  await user.click(screen.getByTestId("save-template-btn"));
  expect(await screen.findByText("The template residual_layers0-0 is saved.")).toBeTruthy();
  expect(created[0]?.template).toMatchObject({
    handle: "",
    description: "For probes",
    settings: { points: ["residual"], layers: "0" },
  });
  await waitFor(() => expect(screen.getByLabelText<HTMLSelectElement>("Template").value).toBe("templates/9"));
});

test("deleting a template asks first", async () => {
  const template = sampleTemplate();
  const { user } = dialog({ templates: [template] });
  const option = await screen.findByRole("option", { name: template.handle });
  await user.selectOptions(screen.getByLabelText("Template"), option);
  await user.click(screen.getByRole("button", { name: `Delete template ${template.handle}` }));
  await user.click(screen.getByTestId("confirm-delete-template-btn"));
  expect(await screen.findByRole("option", { name: "No templates yet" })).toBeTruthy();
});

test("an import tells what was skipped, and why", async () => {
  const { user } = dialog();
  await grid();
  const input = screen.getByTestId("template-file");
  await user.upload(input, new File(["not json"], "mine.json", { type: "application/json" }));
  expect(await screen.findByText(/mine.json is not JSON/)).toBeTruthy();
  await user.upload(input, new File(["{}"], "mine.json", { type: "application/json" }));
  expect(await screen.findByText("1 template was imported, 1 was skipped.")).toBeTruthy();
  expect(screen.getByText("odd: unknown field `speed`")).toBeTruthy();
});

test("templates are exported as a file", async () => {
  const template = sampleTemplate();
  const { user } = dialog({ templates: [template] });
  const option = await screen.findByRole("option", { name: template.handle });
  const saved: string[] = [];
  const click = vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(function (
    this: HTMLAnchorElement,
  ) {
    saved.push(this.download);
  });
  await user.click(screen.getByRole("button", { name: "Export all templates" }));
  await waitFor(() => expect(saved).toEqual(["templates.json"]));
  await user.selectOptions(screen.getByLabelText("Template"), option);
  await user.click(screen.getByRole("button", { name: `Export template ${template.handle}` }));
  await waitFor(() => expect(saved).toEqual(["templates.json", `${template.handle}.json`]));
  click.mockRestore();
});
