//! The contrast of what is drawn, from computed styles: 4.5:1 for text and placeholders, 3:1 for the borders of controls (WCAG 1.4.3, 1.4.11).
//!
//! axe checks no border and no placeholder, and passes over text whose background it cannot tell.

use crate::{Checked, browser::Browser, check};

const RUN: &str = r"
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const parsed = new Map();
const parse = (color) => {
  if (!parsed.has(color)) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    parsed.set(color, [r, g, b, a / 255]);
  }
  return parsed.get(color);
};
const over = (top, below) => top.slice(0, 3).map((part, index) => part * top[3] + below[index] * (1 - top[3]));
// What stands behind the content of an element; behind its border if it is asked for its parent.
const behind = (element) => {
  if (!element) return parse(matchMedia('(prefers-color-scheme: dark)').matches ? 'black' : 'white').slice(0, 3);
  const own = parse(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.matches('dialog') ? null : element.parentElement));
};
const light = (color) => color.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
const ratio = (a, b) => { const [x, y] = [light(a), light(b)]; return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05); };
const seen = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !element.closest(':disabled, .hidden, [aria-hidden=true]:not(.scale, .hours)') && element.getBoundingClientRect().width > 1;
const found = { texts: 0, placeholders: 0, borders: 0, low: [] };
const judge = (kind, element, color, ground, least) => {
  found[kind] += 1;
  const value = ratio(over(parse(color), ground), ground);
  if (value < least) found.low.push(`${kind} ${value.toFixed(2)}:1 ${element.outerHTML.slice(0, 100)}`);
};
const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const texts = new Set();
while (words.nextNode()) if (words.currentNode.data.trim()) texts.add(words.currentNode.parentElement);
for (const element of texts) {
  if (!seen(element) || element.matches('option, script, title')) continue;
  const style = getComputedStyle(element);
  judge('texts', element, element instanceof SVGElement ? style.fill : style.color, behind(element instanceof SVGElement ? element.closest('div') : element), 4.5);
}
for (const element of document.querySelectorAll('button, a.button, input, select, .pin')) {
  if (!seen(element)) continue;
  const style = getComputedStyle(element);
  if (element.placeholder) judge('placeholders', element, getComputedStyle(element, '::placeholder').color, behind(element), 4.5);
  // A control without a border is known by its text; one that the system draws has no colour of ours.
  const edge = parse(style.borderTopColor);
  if (parseFloat(style.borderTopWidth) > 0 && edge[3] > 0 && element.type !== 'checkbox') judge('borders', element, style.borderTopColor, behind(element.parentElement), 3);
}
found.low = [...new Set(found.low)].slice(0, 10);
return found;
";

/// Fails with what has too little contrast in the page as it is now.
pub async fn check(browser: &Browser, what: &str) -> Checked {
    let found = browser.ask(RUN).await?;
    check!(found["low"] == serde_json::json!([]), "{what}: too little contrast: {}", found["low"]);
    let counts = ["texts", "borders"].map(|kind| found[kind].as_u64().unwrap_or_default());
    check!(counts[0] > 10 && counts[1] > 0, "{what}: nothing was checked: {found}");
    let placeholders = browser.ask("return document.querySelectorAll('[placeholder]').length").await?;
    check!(found["placeholders"] == placeholders, "{what}: not every placeholder was checked: {found}");
    Ok(())
}
