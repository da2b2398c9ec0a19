// Writes decline/testdata/money.tsv: locale, currency, amount in Stripe's minor units, and how ICU writes it.
// The digits shown are those of ICU's own default for the currency, except that an amount is never rounded: with a
// fraction that the default would drop, Stripe's scale is shown.
import { locales } from './locales.mjs';

const scale = { JPY: 0, KRW: 0, VND: 0, XOF: 0, MGA: 0, KWD: 3, TND: 3 };
const currencies = ['USD', 'EUR', 'GBP', 'JPY', 'KRW', 'CNY', 'INR', 'BRL', 'MXN', 'CHF', 'SEK', 'PLN', 'HUF', 'UAH',
  'ILS', 'AED', 'THB', 'IDR', 'VND', 'TWD', 'ISK', 'UGX', 'XOF', 'MGA', 'COP', 'KWD', 'TND', 'RSD'];
const amounts = [0, 1, 99, 100, 1050, 99999, 123456, 1234500, 12345600, 123456789012, -1, -1050, -12345600];

console.log(`# Node ${process.versions.node}, ICU ${process.versions.icu}, CLDR ${process.versions.cldr}; made by .ci/cldr/golden.mjs`);
for (const [tag, cldr] of Object.entries(locales)) {
  for (const currency of currencies) {
    const digits = scale[currency] ?? 2;
    const usual = new Intl.NumberFormat('en', { style: 'currency', currency }).resolvedOptions().maximumFractionDigits;
    for (const amount of amounts) {
      const whole = amount % 10 ** Math.max(0, digits - usual) === 0;
      const shown = whole ? Math.min(usual, digits) : digits;
      const text = new Intl.NumberFormat(cldr, {
        style: 'currency', currency, minimumFractionDigits: shown, maximumFractionDigits: shown,
      }).format(amount / 10 ** digits);
      console.log([tag, currency, amount, text].join('\t'));
    }
  }
}
