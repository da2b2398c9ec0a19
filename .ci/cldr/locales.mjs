// The locales of decline.Locales, and the CLDR locale whose data each takes. CLDR's own "pt" is Brazilian.
export const locales = {
  en: 'en', de: 'de', fr: 'fr', es: 'es', it: 'it', nl: 'nl', pt: 'pt-PT', 'pt-BR': 'pt', da: 'da', sv: 'sv',
  nb: 'nb', fi: 'fi', pl: 'pl', cs: 'cs', sk: 'sk', hu: 'hu', ro: 'ro', bg: 'bg', el: 'el', hr: 'hr', tr: 'tr',
  uk: 'uk', ja: 'ja', ko: 'ko', 'zh-Hans': 'zh-Hans', 'zh-Hant': 'zh-Hant', ar: 'ar', he: 'he', hi: 'hi', id: 'id',
  th: 'th', vi: 'vi',
};
