import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dates } from '../../../src/corpus/spans/dates.ts';

/** The text with its dates in braces. */
function marked(text: string): string {
  let out = '';
  let at = 0;
  for (const { start, end } of dates(text)) {
    out += `${text.slice(at, start)}{${text.slice(start, end)}}`;
    at = end;
  }
  return out + text.slice(at);
}
const finds = (expected: string) => assert.equal(marked(expected.replace(/[{}]/g, '')), expected);

test('days, months and years in their usual orders', () => {
  finds('on {5 May 1990}, {May 5, 1990}, {May 5th}, {5th of May 1990}, {Sept. 3, 1999} and {May 1990}');
  finds('{1990-05-12} or {5/12/1990} or {May 12–15, 2001}');
  finds('in {July}, on {Monday}, in {May}; you may march in {March}');
});

test('years, ranges, decades, centuries and eras', () => {
  finds('{1914–1918}, {1914–18}, the {1990s}, the {19th century}, {44 BC}, {AD 79}, {5th century BC}');
  finds('born in {1809}; in the year {312}');
});

test('other numbers are not dates', () => {
  finds('$1990, 3,000 people, 2000 people, 1500 km, 1.1850, 12345, 1990%, No-1990, A1990, 2050 m');
});

test('words that are months and also ordinary words', () => {
  finds('May Smith may march; March of Time');
});

test('dates of Chinese, Japanese, Korean, Thai, Khmer and Burmese', () => {
  finds(
    '海港大桥建于{1903年}，{1932年5月4日}开放。{19世纪}和{1930年代}，{公元前221年}，{一九四九年十月一日}，{5月4日}',
  );
  finds('{昭和39年}に開業し、{２０１９年１２月３日}に閉じた。{平成元年}、{二十世紀}');
  finds('서울은 {1394년 10월 28일}에 수도가 되었다.');
  finds('กรุงเทพก่อตั้งเมื่อ {21 เมษายน พ.ศ. 2325} และปี {1782} ใน{ศตวรรษที่ 18}');
  finds('ទីក្រុងនេះបង្កើតនៅឆ្នាំ {1434} ក្នុង{ខែមីនា ឆ្នាំ ១៩៧០}');
  finds('{၁၉၄၈ ခုနှစ်}');
  finds('全长1903米，100年，1900年间，第5段，12345年，{1903年}和{5 May 1990}');
});
