import type { Range } from '../../datasets/types.ts';

// Dates of Chinese, Japanese and Korean, which have the same order and marks, and of Thai, Lao, Khmer and Burmese. The paper
// has English only.

const DIGIT = '[0-9０-９]';
const NOT_IN_NUMBER = `(?<!${DIGIT}[.,，．]?)`;
const ERA =
  '(?:公元前?|西元前?|紀元前|西暦|기원전|서기|民国|民國|明治|大正|昭和|平成|令和|康熙|雍正|乾隆|嘉庆|道光|光绪|宣统)';
/** After a number of years: "1900年间" is no date. */
const NO_SPAN = '(?![间間以]|동안)';
const HAN = '[〇零一二三四五六七八九]';
const HAN_NUMBER = '[一二三四五六七八九十廿]{1,3}';
const MONTH_AND_DAY = `(?: ?${DIGIT}{1,2} ?[月월](?: ?${DIGIT}{1,2} ?[日号號일])?)`;
const THAI_MONTH =
  '(?:มกราคม|กุมภาพันธ์|มีนาคม|เมษายน|พฤษภาคม|มิถุนายน|กรกฎาคม|สิงหาคม|กันยายน|ตุลาคม|พฤศจิกายน|ธันวาคม)';
const KHMER_MONTH = '(?:មករា|កុម្ភៈ|មីនា|មេសា|ឧសភា|មិថុនា|កក្កដា|សីហា|កញ្ញា|តុលា|វិច្ឆិកា|ធ្នូ)';

/** From the most to the least specific: at each position the first form that matches wins. */
const DATE = new RegExp(
  [
    `${NOT_IN_NUMBER}(?:${ERA} ?${DIGIT}{1,4}|[1１]${DIGIT}{3}|[2２][0０]${DIGIT}{2}) ?(?:年代|年${NO_SPAN}|년대|년${NO_SPAN})${MONTH_AND_DAY}?`,
    `${ERA}?${HAN}{4}年${NO_SPAN}(?:${HAN_NUMBER}月(?:${HAN_NUMBER}[日号號])?)?`,
    `(?:明治|大正|昭和|平成|令和)(?:元|${HAN_NUMBER})年${MONTH_AND_DAY}?`,
    `${NOT_IN_NUMBER}${DIGIT}{1,2} ?[月월] ?${DIGIT}{1,2} ?[日号號일]`,
    `${NOT_IN_NUMBER}${DIGIT}{1,2} ?(?:世纪|世紀|세기)`,
    `${HAN_NUMBER}(?:世纪|世紀)`,
    `(?:\\p{Nd}{1,2} ?${THAI_MONTH}|${THAI_MONTH})(?: ?(?:พ\\.ศ\\.|ค\\.ศ\\.|ปี)? ?\\p{Nd}{4})?`,
    `(?:พ\\.ศ\\.|ค\\.ศ\\.|คริสต์ศตวรรษที่|ศตวรรษที่) ?\\p{Nd}{1,4}`,
    `(?<=ปี ?)\\p{Nd}{4}`,
    `(?:ថ្ងៃទី ?)?(?:\\p{Nd}{1,2} ?)?(?:ខែ ?)?${KHMER_MONTH}(?: ?ឆ្នាំ ?\\p{Nd}{4})?`,
    `(?<=(?:ឆ្នាំ|ປີ|ຄ\\.ສ\\.) ?)\\p{Nd}{4}`,
    `\\p{Nd}{3,4} ?ခုနှစ်`,
  ].join('|'),
  'gu',
);

/** Years, months with days, decades and centuries of a text in these scripts, in order. */
export function unspacedDates(text: string): Range[] {
  return Array.from(text.matchAll(DATE), ({ 0: date, index }) => ({
    start: index,
    end: index + date.length,
  }));
}
