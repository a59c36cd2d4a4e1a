// Code in colours (`markdown.css` has them). Its languages come in a file of their own, with the first code that
// names one.
import { toJsxRuntime } from "hast-util-to-jsx-runtime";
import { common, createLowlight } from "lowlight";
import { memo } from "react";
import { Fragment, jsx, jsxs } from "react/jsx-runtime";

const lowlight = createLowlight(common);

export const Highlighted = memo(function Highlighted({ text, language }: { text: string; language: string }) {
  if (!lowlight.registered(language)) {
    return text;
  }
  return toJsxRuntime(lowlight.highlight(language, text), { Fragment, jsx, jsxs });
});
