import { Code, ConnectError } from "@connectrpc/connect";
import { screen, within } from "@testing-library/react";
import { Route, Routes } from "react-router";
import { expect, test, vi } from "vitest";
import { sampleDescription } from "../../api/inspection-samples";
import { renderWith } from "../../app/test-page";
import { ModelPage } from "./model-page";

function page(describeModel: () => object = () => sampleDescription()) {
  const asked: string[] = [];
  const user = renderWith(
    <Routes>
      <Route path="/models/:id" element={<ModelPage />} />
    </Routes>,
    {
      path: "/models/7",
      inspection: {
        describeModel({ model }) {
          asked.push(model);
          return describeModel();
        },
      },
    },
  );
  return { user, asked };
}

const stack = () => screen.findByTestId("stack");

test("the figures of the model", async () => {
  const { asked } = page();
  const stats = await screen.findByTestId("stats");
  expect(asked).toEqual(["models/7"]);
  expect(screen.getByRole("heading", { name: "gemma-2-2b" })).toBeTruthy();
  for (const text of ["12", "2.5B", "2,506,172,416", "1.6 GB", "1,024", "2,048", "4 for keys and values"]) {
    expect(within(stats).getByText(text)).toBeTruthy();
  }
});

test("the stack folds what repeats, and each block tells of itself", async () => {
  const { user } = page();
  const blocks = within(await stack()).getAllByRole("button");
  expect(blocks.map((block) => block.textContent)).toEqual([
    "Token embedding",
    "Attention norm",
    "Attention",
    "MLP norm",
    "MLP",
    "L1–L11, like L0",
    "Final norm",
    "Output",
  ]);
  const attention = within(await stack()).getByRole("button", {
    name: /^L0 Attention: attention • 4 tensors/,
  });
  expect(screen.queryByText("L0 Attention")).toBeNull();
  await user.hover(attention);
  expect(screen.getByText("L0 Attention")).toBeTruthy();
  // Past the link to the models.
  await user.tab();
  await user.tab();
  expect(document.activeElement?.textContent).toBe("Token embedding");
  expect(screen.queryByText("L0 Attention")).toBeNull();
});

test("a block leads to its layer, with tensors and hook points", async () => {
  const { user } = page();
  await user.click(within(await stack()).getByRole("button", { name: /^L0 MLP:/ }));
  expect(await screen.findByText("blk.0.ffn_down.weight")).toBeTruthy();
  expect(screen.getByText("blocks.0.hook_resid_post")).toBeTruthy();
  expect(screen.getAllByText("64 × 128").length).toBeGreaterThan(0);
  expect(document.activeElement?.tagName).toBe("SUMMARY");
});

test("a fold opens to the layers that it stands for", async () => {
  const { user } = page();
  await stack();
  expect(screen.queryByText("L7")).toBeNull();
  await user.click(screen.getByText("11 layers"));
  await user.click(await screen.findByText("L7"));
  expect(await screen.findByText("blk.7.attn_q.weight")).toBeTruthy();
});

test("the config can be searched and copied", async () => {
  const { user } = page();
  const config = await screen.findByTestId("config");
  expect(within(config).queryByText(/llama3/)).toBeNull();
  await user.type(within(config).getByLabelText("Search the configuration"), "llama3");
  expect(await within(config).findByText("llama3")).toBeTruthy();
  expect(within(config).queryByText(/hidden_size/)).toBeNull();
  await user.click(within(config).getByRole("button", { name: "Copy config.json" }));
  expect(await navigator.clipboard.readText()).toBe(sampleDescription().configJson);
  expect(await within(config).findByText("Copied: config.json")).toBeTruthy();
});

test("a refusal is told, and can be tried again", async () => {
  const answer = vi.fn<() => object>(() => {
    throw new ConnectError("Model 'x' is not ready: it is being downloaded.", Code.FailedPrecondition);
  });
  const { user } = page(answer);
  expect((await screen.findByRole("alert")).textContent).toContain("is not ready");
  answer.mockImplementation(() => sampleDescription());
  await user.click(screen.getByRole("button", { name: "Try again" }));
  await stack();
});
