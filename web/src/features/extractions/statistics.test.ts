import { afterEach, expect, test, vi } from "vitest";
import { sampleStatistics } from "../../api/inspection-samples";
import { fetchStatistics, figureText, parseStatistics, plotOf, plotText } from "./statistics";

afterEach(() => void vi.restoreAllMocks());

test("figures by layer, a line for each point", () => {
  const statistics = parseStatistics(sampleStatistics());
  expect(statistics.sparsity).toContain("0.001");
  expect(statistics.points.map(({ name, layer }) => [name, layer])).toEqual([
    ["resid_post", 0],
    ["mlp", 0],
    ["resid_post", 5],
    ["mlp", 5],
    ["logits", undefined],
  ]);
  const plot = plotOf(statistics, "mean");
  expect(plot).toEqual({
    layers: [0, 5],
    series: [
      { name: "resid_post", values: [0.5, 1.25] },
      { name: "mlp", values: [-0.25, null] },
    ],
  });
  expect(plotText(plot)).toBe("resid_post from 0.5 (L0) to 1.25 (L5); mlp from -0.25 (L0) to -0.25 (L0)");
  expect(plotOf(statistics, "norm").series[0]?.values).toEqual([12.5, 13.25]);
  expect(plotOf(statistics, "standardDeviation").series[1]?.values).toEqual([1.5, 1.5]);
});

test("layers are in their order, whatever that of the file is", () => {
  const points = ["mlp.10", "mlp.2", "attn.2"].map((point, index) => ({ point, mean: index }));
  expect(plotOf(parseStatistics({ version: 1, points }), "mean")).toEqual({
    layers: [2, 10],
    series: [
      { name: "mlp", values: [1, 0] },
      { name: "attn", values: [2, null] },
    ],
  });
});

test.each([
  [{ version: 2 }, "have version 2; this page reads version 1"],
  [{}, "have version undefined"],
  [null, "have version undefined"],
])("%j is refused", (json, says) => {
  expect(() => parseStatistics(json)).toThrow(says);
});

test("odd values are no numbers", () => {
  const points = [null, { point: 5, mean: "x", norm: 3, tokens: -Infinity }];
  expect(parseStatistics({ version: 1, points, definitions: [] })).toMatchObject({
    points: [
      { point: "", layer: undefined, tokens: 0 },
      { point: "", figures: { mean: undefined } },
    ],
    sparsity: "",
  });
});

test("the file is fetched from the management API, and its refusal is told", async () => {
  const fetched = vi.spyOn(globalThis, "fetch");
  const { signal } = new AbortController();
  fetched.mockResolvedValueOnce(Response.json(sampleStatistics()));
  expect((await fetchStatistics("a 1", signal)).points).toHaveLength(5);
  expect(fetched.mock.calls[0]?.[0]).toBe("/api/extractions/a%201/files/statistics.json");
  const envelope = { success: false, error: { code: "NOT_FOUND", message: "Not found: the file." } };
  fetched.mockResolvedValueOnce(Response.json(envelope, { status: 404 }));
  await expect(fetchStatistics("a1", signal)).rejects.toThrow("Not found: the file.");
  fetched.mockResolvedValueOnce(new Response("<html>", { status: 502, statusText: "Bad Gateway" }));
  await expect(fetchStatistics("a1", signal)).rejects.toThrow("The server answered with 502 Bad Gateway");
});

test.each([
  [0, "0"],
  [0.0123456, "0.01235"],
  [1234.5, "1,235"],
  [1.2e-9, "1.200e-9"],
  [-3.4e38, "-3.400e+38"],
  [null, "–"],
  [undefined, "–"],
])("%s reads %s", (value, text) => {
  expect(figureText(value)).toBe(text);
});
