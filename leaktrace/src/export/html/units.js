// Numbers as people read them: as the text report writes them.
const units = (() => {
  const digits = (value) => {
    const places = Math.abs(value) <= 9.995 ? 2 : Math.abs(value) <= 99.95 ? 1 : 0;
    const text = value.toFixed(places);
    const short = text.includes(".") ? text.replace(/\.?0+$/, "") : text;
    return short === "-0" ? "0" : short;
  };
  const scaled = (value, names, step, last) => {
    for (const name of names) {
      if (Math.abs(value) < 999.5) return digits(value) + name;
      value /= step;
    }
    return digits(value) + last;
  };
  const bytes = (value) => scaled(value, [" B", " KiB", " MiB", " GiB"], 1024, " TiB");
  const count = (value) => scaled(value, ["", "k", "M"], 1000, "G");
  const span = (seconds) => {
    if (seconds < 0.9995) return digits(seconds * 1000) + " ms";
    if (seconds < 100) return digits(seconds) + " s";
    if (seconds < 6000) return (seconds / 60).toFixed(0) + " min";
    if (seconds < 172800) {
      const minutes = Math.round(seconds / 60);
      return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
    }
    return (seconds / 86400).toFixed(0) + " days";
  };
  const rate = (perSecond, write) =>
    perSecond !== 0 && Math.abs(perSecond) < 0.5 ? write(perSecond * 3600) + "/h" : write(perSecond) + "/s";
  const percent = (share) => {
    const value = share * 100;
    return (value > 99.9 && value < 100 ? "99.9" : digits(value)) + " %";
  };
  const exact = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ",");
  const signed = (value, write) => (value > 0 ? "+" : "") + write(value);
  return { bytes, count, span, rate, percent, exact, signed };
})();
