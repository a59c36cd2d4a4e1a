import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { screen, waitFor } from "@testing-library/react";
import { expect, test } from "vitest";
import { renderWith } from "../../app/test-page";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb";
import { Quantization } from "../../gen/millm/catalog/v1/catalog_pb";
import {
  Download_State,
  ModelPreviewSchema,
  type StartDownloadRequest,
} from "../../gen/millm/downloader/v1/downloader_pb";
import { DownloadCard } from "./download-card";

function refusal(code: Code, reason: string, message: string): ConnectError {
  return new ConnectError(message, code, undefined, [{ desc: ErrorInfoSchema, value: { reason } }]);
}

function page(answer: (request: StartDownloadRequest) => object = () => ({ modelId: 7n })) {
  const asked: StartDownloadRequest[] = [];
  const user = renderWith(<DownloadCard />, {
    downloader: {
      startDownload(request) {
        asked.push(request);
        return answer(request);
      },
      previewModel: ({ repoId }) =>
        create(ModelPreviewSchema, {
          repoId,
          handle: "gemma-2-2b",
          supported: true,
          gated: true,
          parameterCount: 2_610_000_000n,
          architecture: { name: "Gemma2ForCausalLM" },
          files: [{ path: "model.safetensors", sizeBytes: 5_000_000_000n, selected: true }],
          estimates: [
            { quantization: Quantization.Q4, diskSizeBytes: 1_630_000_000n, memoryBytes: 2_200_000_000n },
            { quantization: Quantization.Q8, diskSizeBytes: 2_780_000_000n, memoryBytes: 3_400_000_000n },
            { quantization: Quantization.FP16, peakDiskBytes: 10_000_000_000n },
            { quantization: Quantization.Q2, modelId: 3n },
          ],
          availableDiskBytes: 9_000_000_000n,
        }),
    },
  });
  return { user, asked };
}

const repo = () => screen.getByLabelText<HTMLInputElement>("Hugging Face repository");

test("a bad repository id is refused beside its field, without asking the server", async () => {
  const { user, asked } = page();
  await user.type(repo(), "gemma");
  await user.click(screen.getByTestId("download-btn"));
  expect(screen.getByRole("alert").textContent).toContain("owner/name");
  expect(repo().getAttribute("aria-invalid")).toBe("true");
  expect(document.activeElement).toBe(repo());
  expect(asked).toEqual([]);

  await user.type(repo(), "/x");
  expect(screen.queryByRole("alert")).toBeNull();
});

test("what was chosen is asked for, and the form is ready for the next", async () => {
  const { user, asked } = page();
  await user.type(repo(), "google/gemma-2-2b");
  await user.selectOptions(screen.getByLabelText("Quantization"), "Q8 – 8-bit, near lossless");
  await user.type(screen.getByLabelText(/Access token/), "hf_secret");
  await user.click(screen.getByLabelText("Trust remote code"));
  expect(screen.getByText(/Custom code is never run/)).toBeTruthy();
  await user.click(screen.getByTestId("download-btn"));
  await waitFor(() => expect(repo().value).toBe(""));
  expect(asked[0]).toMatchObject({
    quantization: Quantization.Q8,
    trustRemoteCode: true,
    source: { case: "hub", value: { repoId: "google/gemma-2-2b", hfToken: "hf_secret" } },
  });
  expect(screen.getByLabelText<HTMLInputElement>(/Access token/).value).toBe("");
  expect(screen.getByLabelText<HTMLInputElement>("Trust remote code").checked).toBe(false);
});

test("a gated model's refusal is shown at the token", async () => {
  const { user } = page(() => {
    throw refusal(
      Code.Unauthenticated,
      "GATED_MODEL_NO_TOKEN",
      "'a/b' is gated: a Hugging Face token is needed.",
    );
  });
  await user.type(repo(), "a/b{Enter}");
  await screen.findByText("'a/b' is gated: a Hugging Face token is needed.");
  expect(screen.getByLabelText(/Access token/).getAttribute("aria-invalid")).toBe("true");
  expect(repo().value).toBe("a/b");
});

test("a refusal about no field is shown in the card", async () => {
  const message = "Insufficient disk space. Need 9.00 GB, only 1.00 GB available.";
  const { user } = page(() => {
    throw refusal(Code.ResourceExhausted, "INSUFFICIENT_DISK", message);
  });
  await user.type(repo(), "a/b{Enter}");
  expect((await screen.findByRole("alert")).textContent).toBe(message);
});

test("a local path is added as it is", async () => {
  const { user, asked } = page(() => ({ modelId: 7n, handle: "tiny", state: Download_State.SUCCEEDED }));
  await user.click(screen.getByLabelText("Local path"));
  await user.type(screen.getByLabelText("Path on the server"), "/models/tiny");
  await user.click(screen.getByTestId("add-btn"));
  await screen.findByText("tiny was added.");
  expect(asked[0]).toMatchObject({
    quantization: Quantization.NATIVE,
    source: { case: "localPath", value: "/models/tiny" },
  });
});

test("the preview tells what does not fit and what is here already", async () => {
  const { user } = page();
  await user.type(repo(), "google/gemma-2-2b");
  await user.click(screen.getByTestId("preview-btn"));
  await user.click(await screen.findByLabelText("FP16"));
  expect(screen.getByText(/needs 10 GB on the disk while it arrives, only 9.0 GB are free/)).toBeTruthy();
  await user.click(screen.getByLabelText("Q2"));
  expect(screen.getByText("Q2 of this model is here already.")).toBeTruthy();
  expect(screen.getByRole<HTMLButtonElement>("button", { name: "Download Q2" }).disabled).toBe(true);
  expect(screen.getByText("2,610,000,000")).toBeTruthy();
});

test("the preview shows what it would take, and downloads what is chosen there", async () => {
  const { user, asked } = page();
  await user.type(repo(), "google/gemma-2-2b");
  await user.click(screen.getByTestId("preview-btn"));
  const dialog = await screen.findByRole("dialog", { name: "gemma-2-2b" });
  for (const text of ["Gemma2ForCausalLM", "2.6B", "1.6 GB", "3.4 GB", /is gated/]) {
    expect(screen.getByText(text)).toBeTruthy();
  }
  await user.click(screen.getByLabelText("Q8"));
  await user.click(screen.getByRole("button", { name: "Download Q8" }));
  await waitFor(() => expect(dialog.isConnected).toBe(false));
  expect(asked[0]?.quantization).toBe(Quantization.Q8);
});
