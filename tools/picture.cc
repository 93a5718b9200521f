#include "tools/picture.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <map>
#include <string_view>

#include "engine/types.h"
#include "tools/text.h"

namespace daxcow::tools {

using nlohmann::json;

namespace {

constexpr double kWidth = 1200, kMargin = 24, kInner = kWidth - 2 * kMargin;
constexpr std::size_t kColumns = 64;
constexpr double kAxis = 84;  // for the offsets left of the map
constexpr double kCell = 16, kGap = 0.75;
constexpr const char *kBad = "#d0021b", *kHealed = "#0a8f3c", *kInk = "#1d2733", *kFaint = "#5b6875";

struct Kind {
  const char* name;   // in the survey
  const char* title;  // in the legend
  const char* colour;
};
// In the order in which they are stacked. Data is blue, the darker the more own it; what is not data has other hues.
constexpr std::array kKinds = std::to_array<Kind>({
    {"superblock", "superblocks", "#22262b"},
    {"journal", "journal", "#6b4fa0"},
    {"metadata", "metadata", "#e39b24"},
    {"metadata-unused", "metadata, unused", "#f6dfae"},
    {"mirror", "mirror of metadata", "#c7a3dd"},
    {"data-100", "data of 100 owners or more", "#0b2f5c"},
    {"data-10", "data of 10 to 99 owners", "#1f5f9f"},
    {"data-3", "data of 3 to 9 owners", "#4a93d1"},
    {"data-2", "data of 2 owners", "#86bde8"},
    {"data-1", "data of one owner", "#c4e0f5"},
    {"dying", "being freed", "#cfc6ba"},
    {"quarantined", "bad, out of use", "#f3a8a8"},
    {"free", "free", "#eef1f4"},
});

std::uint64_t number_in(const json& object, const char* field) { return object.value(field, std::uint64_t{0}); }

// Fit for XML: one line, UTF-8 (what is not is replaced), without what XML gives a meaning.
std::string xml(const std::string& text) {
  const json clean = json::parse(json(printable(text)).dump(-1, ' ', false, json::error_handler_t::replace));
  std::string out;
  for (const char character : clean.get<std::string>()) {
    switch (character) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += character;
    }
  }
  return out;
}

// The start and the end of what is too long to be shown whole; whole characters.
std::string shortened(const std::string& text, std::size_t limit) {
  const auto is_start = [](char c) { return (c & 0xc0) != 0x80; };
  const auto length = static_cast<std::size_t>(std::ranges::count_if(text, is_start));
  if (length <= limit) return text;
  std::string out;
  std::size_t index = 0;
  const std::size_t head = limit / 3, tail = limit - head - 1;
  bool cut = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_start(text[i])) ++index;
    if (index <= head || index > length - tail) {
      out += text[i];
    } else if (!cut) {
      out += "\u2026";
      cut = true;
    }
  }
  return out;
}

std::string percent(std::uint64_t part, std::uint64_t whole) {
  if (part == 0 || whole == 0) return "0 %";
  const double share = 100.0 * static_cast<double>(part) / static_cast<double>(whole);
  return share < 0.1 ? "< 0.1 %" : fmt::format("{:.{}f} %", share, share < 10 ? 1 : 0);
}

// "sectors 2-4 of 8".
std::string describe_sectors(std::uint64_t mask) {
  if (mask == 0xff) return "all of it";
  std::string text;
  for (unsigned first = 0; first < kSectorsPerBlock; ++first) {
    if (!(mask >> first & 1)) continue;
    unsigned last = first;
    while (last + 1 < kSectorsPerBlock && mask >> (last + 1) & 1) ++last;
    text += (text.empty() ? "" : ", ") + (first == last ? std::to_string(first) : fmt::format("{}-{}", first, last));
    first = last;
  }
  return "sectors " + text + " of 0-7";
}

// The drawing, from the top down.
class Drawing {
 public:
  explicit Drawing(const PictureSource& source) : source_(source), survey_(source.survey) {
    pool_blocks_ = std::max<std::uint64_t>(number_in(survey_, "pool_blocks"), 1);
    cell_blocks_ = std::max<std::uint64_t>(number_in(survey_, "cell_blocks"), 1);
    const auto& names = survey_.at("kinds");
    for (const auto& kind : kKinds) {
      const auto at = std::ranges::find(names, json(kind.name));
      column_of_.push_back(
          static_cast<std::size_t>(at - names.begin()));  // the end: an older program does not count it
    }
    for (const auto& cell : survey_.at("cells"))
      for (std::size_t i = 0; i < kKinds.size(); ++i) totals_[i] += blocks_in(cell, i);
    // Bad blocks are numbered by the surroundings that they are shown in.
    for (const auto& spans : survey_.at("surroundings")) {
      if (windows_.size() == kPictureSurroundings || spans.empty()) break;
      windows_.push_back(number_in(spans.front(), "block") / kWindow * kWindow);
    }
  }

  std::string draw() {
    head();
    totals();
    map();
    surroundings();
    foot();
    const std::string title = "daxcow pool " + xml(source_.path);
    return fmt::format(
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} "
               "{1:.0f}\" "
               "role=\"img\" font-family=\"DejaVu Sans, Noto Sans, Helvetica, Arial, sans-serif\" font-size=\"13\" "
               "fill=\"{2}\">\n<title>{3}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
               kWidth, y_ + kMargin, kInk, title) +
           body_ + "</svg>\n";
  }

 private:
  static constexpr std::uint64_t kWindow = 64;  // blocks of the surroundings

  std::uint64_t blocks_in(const json& cell, std::size_t kind) const {
    const auto column = column_of_[kind];
    return column < cell.at("blocks").size() ? cell.at("blocks").at(column).get<std::uint64_t>() : 0;
  }

  void text(double x, double y, const std::string& content, const std::string& style = {}) {
    body_ +=
        fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\"{}{}>{}</text>\n", x, y, style.empty() ? "" : " ", style, content);
  }
  void rectangle(double x, double y, double width, double height, const char* colour, const std::string& style = {}) {
    body_ += fmt::format("<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" fill=\"{}\"{}{}/>\n", x, y,
                         width, height, colour, style.empty() ? "" : " ", style);
  }
  void heading(const std::string& content) {
    y_ += 34;
    text(kMargin, y_, content, "font-size=\"16\" font-weight=\"bold\"");
  }
  void note(const std::string& content) {
    y_ += 19;
    text(kMargin, y_, content, fmt::format("fill=\"{}\"", kFaint));
  }
  // A round mark in the middle of a cell, with a number if it has one.
  void mark_bad(double x, double y, const std::string& number, const std::string& title) {
    body_ += fmt::format(
        "<g><title>{}</title><circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"9.5\" fill=\"{}\" stroke=\"#ffffff\" "
        "stroke-width=\"1.5\"/>",
        title, x, y, kBad);
    if (!number.empty())
      body_ += fmt::format(
          "<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"11\" font-weight=\"bold\" fill=\"#ffffff\" "
          "text-anchor=\"middle\">{}</text>",
          x, y + 4, number);
    body_ += "</g>\n";
  }
  void mark_healed(double x, double y) {
    body_ += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\" fill=\"#ffffff\" stroke=\"{}\" stroke-width=\"2.5\"/>\n", x, y,
        kHealed);
  }

  void head() {
    y_ = kMargin + 22;
    const auto& statistics = source_.statistics;
    const std::string label = statistics.value("label", "");
    text(kMargin, y_, xml(shortened(label.empty() ? source_.path : label + " (" + source_.path + ")", 80)),
         "font-size=\"22\" font-weight=\"bold\"");
    const json health = statistics.value("health", json::object());
    const std::string state = health.value("state", "unknown");
    const bool good = state == "good", lost = state == "data-lost" || state == "metadata-lost";
    y_ += 24;
    text(kMargin, y_,
         xml(fmt::format("{}, {}, UUID {}, drawn {}", human_size(pool_blocks_ * kBlockBytes),
                         number_in(statistics, "volumes") == 1
                             ? std::string("1 volume")
                             : fmt::format("{} volumes and snapshots", number_in(statistics, "volumes")),
                         statistics.value("uuid", "?"), local_time(std::time(nullptr)))),
         fmt::format("fill=\"{}\"", kFaint));
    y_ += 24;
    std::string line = "Health: " + state;
    if (lost)
      line += fmt::format(" \u2014 {} in {} cannot be read", human_size(number_in(health, "lost_bytes")),
                          counted(number_in(health, "lost_blocks"), "block"));
    if (const auto bad = survey_.at("bad").size(); bad != 0)
      line += fmt::format(" \u2014 {} in all", counted(bad, "bad block"));
    if (const auto healed = survey_.at("healed").size(); healed != 0)
      line += fmt::format(" \u2014 {} healed since the pool was opened", counted(healed, "block"));
    text(kMargin, y_, xml(line),
         fmt::format("font-weight=\"bold\" fill=\"{}\"", good   ? kHealed
                                                         : lost ? kBad
                                                                : "#a05a00"));
  }

  void totals() {
    heading("What the space is used for");
    y_ += 12;
    double x = kMargin;
    for (std::size_t i = 0; i < kKinds.size(); ++i) {
      if (totals_[i] == 0) continue;
      const double width = kInner * static_cast<double>(totals_[i]) / static_cast<double>(pool_blocks_);
      rectangle(x, y_, width, 26, kKinds[i].colour);
      x += width;
    }
    rectangle(kMargin, y_, kInner, 26, "none", "stroke=\"#9aa5b1\" stroke-width=\"0.75\"");
    y_ += 26;
    // The legend, and what it stands for in figures.
    constexpr double kEntry = kInner / 3;
    std::size_t entry = 0;
    const auto place = [&] {
      const double at = kMargin + static_cast<double>(entry % 3) * kEntry;
      if (entry++ % 3 == 0) y_ += 23;
      return at;
    };
    for (std::size_t i = 0; i < kKinds.size(); ++i) {
      if (totals_[i] == 0) continue;
      const double at = place();
      rectangle(at, y_ - 11, 14, 14, kKinds[i].colour, "stroke=\"#9aa5b1\" stroke-width=\"0.5\"");
      text(at + 21, y_,
           fmt::format("{}: {}, {}", kKinds[i].title, human_size(totals_[i] * kBlockBytes),
                       xml(percent(totals_[i], pool_blocks_))));
    }
    if (!survey_.at("bad").empty()) {
      const double at = place();
      mark_bad(at + 7, y_ - 4, "1", "bad");
      text(at + 21, y_, "bad blocks; the number leads to the close-up");
    }
    if (!survey_.at("healed").empty()) {
      const double at = place();
      mark_healed(at + 7, y_ - 4);
      text(at + 21, y_, "blocks that were bad and work again");
    }
  }

  void map() {
    const auto& cells = survey_.at("cells");
    heading(fmt::format("Where it lies: a square is {}, a row {}", human_size(cell_blocks_ * kBlockBytes),
                        human_size(cell_blocks_ * kColumns * kBlockBytes)));
    y_ += 12;
    const double top = y_, left = kMargin + kAxis;
    std::array<std::string, kKinds.size()> paths;  // one for each colour: a square of its own would be thrice the size
    std::string healed, bad;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const double x = left + static_cast<double>(i % kColumns) * (kCell + kGap);
      const double y = top + static_cast<double>(i / kColumns) * (kCell + kGap);
      const std::uint64_t whole = std::min(cell_blocks_, pool_blocks_ - i * cell_blocks_);
      double from = y;
      const auto heights = heights_in(cells[i], whole);
      for (std::size_t kind = 0; kind < kKinds.size(); ++kind) {
        if (heights[kind] == 0) continue;
        paths[kind] += fmt::format("M{:.2f} {:.2f}h{:.0f}v{:.2f}h-{:.0f}z", x, from, kCell, heights[kind], kCell);
        from += heights[kind];
      }
    }
    for (std::size_t kind = 0; kind < kKinds.size(); ++kind)
      if (!paths[kind].empty())
        body_ += fmt::format("<path fill=\"{}\" d=\"{}\"/>\n", kKinds[kind].colour, paths[kind]);
    for (std::size_t i = 0; i < cells.size(); i += kColumns)
      text(left - 8, top + static_cast<double>(i / kColumns) * (kCell + kGap) + 12.5,
           human_size(i * cell_blocks_ * kBlockBytes),
           fmt::format("text-anchor=\"end\" font-size=\"11\" fill=\"{}\"", kFaint));
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const double x = left + static_cast<double>(i % kColumns) * (kCell + kGap) + kCell / 2;
      const double y = top + static_cast<double>(i / kColumns) * (kCell + kGap) + kCell / 2;
      const auto count = number_in(cells[i], "bad");
      if (count == 0 && number_in(cells[i], "healed") != 0) mark_healed(x, y);
      if (count != 0)
        mark_bad(x, y, number_of_cell(i),
                 fmt::format("{} in {} at {}", counted(count, "bad block"), human_size(cell_blocks_ * kBlockBytes),
                             human_size(i * cell_blocks_ * kBlockBytes)));
    }
    y_ = top + static_cast<double>((cells.size() + kColumns - 1) / kColumns) * (kCell + kGap);
  }

  // How high what is in a cell is drawn: by its share, but never too low to be seen, at the cost of what there is most
  // of.
  std::array<double, kKinds.size()> heights_in(const json& cell, std::uint64_t whole) const {
    constexpr double kLowest = 2;
    std::array<double, kKinds.size()> heights{};
    double sum = 0;
    for (std::size_t kind = 0; kind < kKinds.size(); ++kind) {
      const auto blocks = blocks_in(cell, kind);
      if (blocks == 0) continue;
      heights[kind] = std::max(kLowest, kCell * static_cast<double>(blocks) / static_cast<double>(whole));
      sum += heights[kind];
    }
    *std::ranges::max_element(heights) -= sum - kCell;
    return heights;
  }

  // The close-up that belongs to a cell: the first, if several do. None for what is not shown close up.
  std::string number_of_cell(std::size_t cell) const {
    for (std::size_t i = 0; i < windows_.size(); ++i)
      for (const auto& bad : survey_.at("bad")) {
        const auto block = number_in(bad, "block");
        if (block / kWindow * kWindow == windows_[i] && block / cell_blocks_ == cell) return std::to_string(i + 1);
      }
    return {};
  }

  void surroundings() {
    const auto& bad = survey_.at("bad");
    if (bad.empty()) return;
    heading("Close-ups of the bad blocks: a column is a block of 4 KiB, its red parts the bad sectors of 512 bytes");
    for (std::size_t i = 0; i < windows_.size(); ++i) surrounding(i);
    std::size_t shown = 0;
    for (const auto& one : bad)
      shown += std::ranges::find(windows_, number_in(one, "block") / kWindow * kWindow) != windows_.end();
    if (shown < bad.size())
      note(fmt::format("{} more are marked on the map only; daxcow poison list names them all",
                       counted(bad.size() - shown, "bad block")));
  }

  void surrounding(std::size_t index) {
    constexpr double kStrip = 40;
    const std::uint64_t first = windows_[index];
    const double left = kMargin + kAxis, step = kCell + kGap;
    y_ += 24;
    const double top = y_;
    mark_bad(kMargin + 12, top + kStrip / 2, std::to_string(index + 1), "close-up");
    text(left - 8, top + kStrip / 2 + 4, human_size(first * kBlockBytes),
         fmt::format("text-anchor=\"end\" font-size=\"11\" fill=\"{}\"", kFaint));
    for (const auto& span : survey_.at("surroundings").at(index)) {
      const auto kind =
          std::ranges::find(kKinds, span.value("kind", ""), [](const Kind& one) { return std::string(one.name); });
      if (kind == kKinds.end()) continue;
      const auto start = number_in(span, "block") - first, count = number_in(span, "count");
      for (std::uint64_t block = start; block < start + count && block < kWindow; ++block)
        rectangle(left + static_cast<double>(block) * step, top, kCell, kStrip, kind->colour);
    }
    std::vector<const json*> named;
    std::size_t others = 0;
    for (const auto& bad : survey_.at("bad")) {
      const auto block = number_in(bad, "block"), sectors = number_in(bad, "bad_sectors");
      if (block / kWindow * kWindow != first) continue;
      const double x = left + static_cast<double>(block - first) * step;
      for (unsigned sector = 0; sector < kSectorsPerBlock; ++sector)
        if (sectors >> sector & 1)
          rectangle(x, top + sector * kStrip / kSectorsPerBlock, kCell, kStrip / kSectorsPerBlock, kBad);
      rectangle(x - 1, top - 1, kCell + 2, kStrip + 2, "none", fmt::format("stroke=\"{}\" stroke-width=\"2\"", kBad));
      const auto found =
          std::ranges::find(source_.blocks, block, [](const json& one) { return number_in(one, "block"); });
      if (found != source_.blocks.end())
        named.push_back(&*found);
      else
        ++others;
    }
    y_ = top + kStrip + 2;
    for (const json* block : named) owners_of(*block);
    if (others != 0) {
      y_ += 18;
      text(left, y_, fmt::format("and {} more here", counted(others, "bad block")), fmt::format("fill=\"{}\"", kFaint));
    }
  }

  void owners_of(const json& block) {
    constexpr std::size_t kLines = 5;
    const double left = kMargin + kAxis;
    const std::string detail = block.value("detail", "");
    const auto& owners = block.at("owners");
    y_ += 19;
    std::string line = fmt::format(
        "block {} at {}: {}{}, {}", number_in(block, "block"), number_in(block, "offset_bytes"), block.value("use", ""),
        detail.empty() ? "" : " (" + detail + ")", describe_sectors(number_in(block, "bad_sectors")));
    if (!owners.empty())
      line += fmt::format(", {}{}", counted(owners.size(), "owner"),
                          block.value("owners_truncated", false) ? " and more" : "");
    text(left, y_, xml(line), "font-weight=\"bold\"");
    std::size_t listed = 0;
    for (const auto& owner : owners) {
      if (listed == kLines) break;
      ++listed;
      std::string ranges;
      for (const auto& range : owner.value("lost", json::array())) {
        const auto from = number_in(range, "offset_bytes");
        ranges += fmt::format("{}{}-{}", ranges.empty() ? ", bytes " : ", ", from,
                              from + number_in(range, "length_bytes") - 1);
      }
      y_ += 18;
      text(left + 14, y_,
           xml(fmt::format("{}: {}{}{}", shortened(owner.value("volume", ""), 30),
                           shortened(owner.value("path", ""), 80),
                           owner.value("role", "") == "data" ? "" : " (" + owner.value("role", "") + ")", ranges)));
    }
    if (listed < owners.size()) {
      y_ += 18;
      text(left + 14, y_, fmt::format("and {} more; see daxcow owners", owners.size() - listed),
           fmt::format("fill=\"{}\"", kFaint));
    }
  }

  void foot() {
    y_ += 12;
    note(
        "Every square is filled from the top by what is in it, in the order of the legend. An owner is a file range of "
        "a volume or snapshot.");
    note("The journal and every chunk of metadata lie beside their mirrors; damage to one copy costs nothing.");
  }

  const PictureSource& source_;
  const json& survey_;
  std::uint64_t pool_blocks_ = 1, cell_blocks_ = 1;
  std::vector<std::size_t> column_of_;  // of each kind, in a cell's counts
  std::array<std::uint64_t, kKinds.size()> totals_{};
  std::vector<std::uint64_t> windows_;
  std::string body_;
  double y_ = 0;
};

}  // namespace

std::string draw_pool(const PictureSource& source) { return Drawing(source).draw(); }

}  // namespace daxcow::tools
