#include "test/fuzz/image_edit.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "engine/checksum.h"
#include "engine/metadata.h"
#include "engine/record_key.h"
#include "engine/references.h"
#include "test/fuzz/image_fields.h"

namespace daxcow::fuzz {

using format::BlockDescriptor;
using format::BlockType;
using format::ChunkHeader;
using format::ReverseRecord;

namespace {

constexpr std::uint64_t kInteresting[] = {
    0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 63, 64, 126, 127, 128, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1026, 1279, 1280, 1281,
    1535, 1536, 2047, 2048, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, 1 << 24, 1ull << 31, 0xffffffff, 1ull << 32, 1ull << 40,
    (1ull << 51) - 1, 1ull << 51, (1ull << 52) - 1, 1ull << 52, 1ull << 55, 1ull << 60, (1ull << 62), (1ull << 63) - 4096, (1ull << 63) - 4095,
    (1ull << 63) - 1, 1ull << 63, ~0ull - 4095, ~0ull - 1, ~0ull, 0xfff0000000000001, 0xfffffffffffff001, 0xfffffffffffff003,
    0x0001574f43584144, 0x4b4e484357435844, 0x81a4, 0x41ed, 0xa1ff, 0x2180, 0x1180, 0xc180, 0xf1ff};

BlockType type_of(Target target) {
  switch (target) {
    case Target::kMapEntry: return BlockType::kMapNode;
    case Target::kInode: return BlockType::kInodes;
    case Target::kGranule:
    case Target::kName: return BlockType::kDirectory;
    case Target::kAttribute: return BlockType::kAttributes;
    case Target::kSymlink: return BlockType::kSymlink;
    case Target::kOrphan: return BlockType::kOrphans;
    case Target::kGraveyard: return BlockType::kGraveyard;
    case Target::kRecord:
    case Target::kLeafBitmap: return BlockType::kReverseLeaf;
    default: return BlockType::kRoots;
  }
}

std::uint64_t load(const Block& block, std::size_t at, std::size_t bytes) {
  std::uint64_t value = 0;
  std::memcpy(&value, block.bytes + at, bytes);
  return value;
}

class Editor {
 public:
  explicit Editor(BaseImage& base) : base_(base), image_(*base.work) {}

  void apply(const Record& record) {
    switch (record.target) {
      case Target::kSuperblock:
        edit_copies(record, format::kSuperblockPrimary, BlockNumber(image_.block_count() - 1));
        superblock_touched_ = true;
        superblock_sealed_ &= (record.how & kLeaveBlockCrc) == 0;
        return;
      case Target::kChunkHeader:
      case Target::kDescriptor: {
        const BlockNumber chunk = base_.chunks[record.block % base_.chunks.size()];
        edit_copies(record, chunk, Metadata::mirror_of(chunk));
        touch_chunk(chunk, record.how);
        // What changed its type keeps its content, with a checksum that fits.
        if (record.target == Target::kDescriptor && last_field_ < 4) touched_[chunk + 1 + last_element_] = record.how;
        return;
      }
      case Target::kJournalHeader:
      case Target::kJournalGroup: {
        Record shifted = record;
        const BlockNumber primary = format::kJournalChunk + (record.target == Target::kJournalGroup ? record.block % 2 : 0);
        edit_copies(shifted, primary, Metadata::mirror_of(primary));
        journal_touched_ = true;
        journal_sealed_ &= (record.how & kLeaveBlockCrc) == 0;
        return;
      }
      case Target::kBadBlock:
        image_.make_bad(BlockNumber(value_of(record, BlockNumber(0), 0) % image_.block_count()));
        return;
      case Target::kAnyWord:
        return edit_metadata(record, base_.used);
      case Target::kBadCopies: {
        const BlockNumber block = base_.metadata_block(record.slot, record.block);
        image_.make_bad(block);
        image_.make_bad(Metadata::mirror_of(block));
        return;
      }
      case Target::kRoots:
      case Target::kVolumeZero:
      case Target::kScrubRecord:
      default:
        return edit_metadata(record, base_.blocks[static_cast<std::size_t>(type_of(record.target))]);
      case Target::kBlockCopy:
        return copy_block(record);
    }
  }

  void seal() {
    for (const auto& [block, how] : touched_) {
      const BlockNumber chunk = Metadata::chunk_base(block);
      touch_chunk(chunk, how & kLeaveHeaderCrc);
      if (how & kLeaveBlockCrc) continue;
      const BlockNumber from = how & kMirrorOnly ? Metadata::mirror_of(block) : block;
      for (const BlockNumber copy : {chunk, Metadata::mirror_of(chunk)}) {
        auto& descriptor = image_.edit(copy).as<ChunkHeader>().blocks[block - chunk - 1];
        descriptor.crc = block_crc(block, descriptor, image_.look(from));
      }
    }
    for (const auto& [chunk, how] : chunks_) {
      if (how & kLeaveHeaderCrc) continue;
      for (const BlockNumber copy : {chunk, Metadata::mirror_of(chunk)}) {
        auto& header = image_.edit(copy).as<ChunkHeader>();
        header.crc = chunk_header_crc(header);
      }
    }
    if (superblock_touched_ && superblock_sealed_) {
      for (const BlockNumber copy : {format::kSuperblockPrimary, BlockNumber(image_.block_count() - 1)}) {
        auto& superblock = image_.edit(copy).as<format::Superblock>();
        superblock.crc = superblock_crc(superblock);
      }
    }
    if (journal_touched_ && journal_sealed_) seal_journal();
  }

 private:
  void touch_chunk(BlockNumber chunk, std::uint8_t how) { chunks_[chunk] |= how; }

  void edit_metadata(const Record& record, const std::vector<BlockNumber>& list) {
    if (list.empty()) return;
    const BlockNumber block = list[record.block % list.size()];
    edit_copies(record, block, Metadata::mirror_of(block));
    touched_[block] = record.how;
  }

  void edit_copies(const Record& record, BlockNumber primary, BlockNumber mirror) {
    if (!(record.how & kMirrorOnly)) edit_block(record, primary, primary);
    if (!(record.how & kPrimaryOnly) || (record.how & kMirrorOnly)) edit_block(record, mirror, primary);
  }

  // The element that a slot number means: one of those that are in use, unless the record says any.
  std::size_t element_of(const Record& record, const Layout& layout, const Block& block) {
    if (record.target == Target::kAttribute && !(record.how & kAnySlot)) return attribute_of(record, block);
    if (record.how & kAnySlot) return record.slot % layout.elements;
    static thread_local std::vector<std::size_t> used;
    used.clear();
    for (std::size_t i = 0; i < layout.elements; ++i) {
      const auto* const bytes = block.bytes + layout.first + i * layout.stride;
      if (std::any_of(bytes, bytes + layout.stride, [](std::byte b) { return b != std::byte{0}; })) used.push_back(i);
    }
    return used.empty() ? record.slot % layout.elements : used[record.slot % used.size()];
  }

  // Attributes follow each other; units of 8 bytes.
  std::size_t attribute_of(const Record& record, const Block& block) {
    std::size_t at = 0;
    for (unsigned n = record.slot % 8; n > 0; --n) {
      const auto value_bytes = load(block, at * 8, 4), name_bytes = load(block, at * 8 + 4, 1);
      const std::size_t next = at + (sizeof(format::AttributeEntry) + value_bytes + name_bytes + 7) / 8;
      if (value_bytes > kBlockBytes || next > 508) break;
      at = next;
    }
    return at;
  }

  void edit_block(const Record& record, BlockNumber at, BlockNumber primary) {
    Block& block = image_.edit(at);
    if (record.target == Target::kName) return edit_name(record, block);
    const Layout& layout = layout_of(record.target);
    const std::size_t element = element_of(record, layout, block);
    const std::size_t which = record.field % layout.fields.size();
    const Field& field = layout.fields[which];
    last_field_ = which;
    last_element_ = element;
    const std::size_t offset = layout.first + element * layout.stride + field.offset;
    std::uint64_t value = 0;
    if (record.value_kind == ValueKind::kOther) {
      const std::uint64_t other = layout.first + (record.value & 0xffff) % layout.elements * layout.stride + field.offset;
      value = load(block, other, field.bytes);
    } else {
      value = value_of(record, primary, load(block, offset, field.bytes));
    }
    std::memcpy(block.bytes + offset, &value, field.bytes);
  }

  // Changes a byte of a name and puts its hash right.
  void edit_name(const Record& record, Block& block) {
    const std::size_t granule = element_of(record, layout_of(Target::kGranule), block);
    auto* const at = block.bytes + granule * format::kGranuleBytes;
    format::DirectoryEntry entry;
    std::memcpy(&entry, at, sizeof entry);
    const std::size_t room = kBlockBytes - granule * format::kGranuleBytes - sizeof entry;
    const std::size_t length = std::min<std::size_t>(entry.name_bytes, room);
    if (length == 0) return;
    if (record.how & kAnySlot) {  // the name of another entry of the block
      const auto* const other = block.bytes + record.value % format::kGranulesPerBlock * format::kGranuleBytes;
      std::memmove(at + sizeof entry, other + sizeof entry, std::min(length, std::size_t{16}));
    } else {
      static constexpr unsigned char kOdd[] = {0, '/', '.', '\n', 0x7f, 0x80, 0xff, ' ', ','};
      at[sizeof entry + record.field % length] = std::byte{kOdd[record.value % sizeof kOdd]};
    }
    entry.hash = name_hash(std::span(at + sizeof entry, length));
    std::memcpy(at, &entry, sizeof entry);
  }

  void copy_block(const Record& record) {
    if (base_.used.empty()) return;
    const BlockNumber to = base_.used[record.block % base_.used.size()];
    const auto& header = image_.look(Metadata::chunk_base(to)).as<ChunkHeader>();
    const auto type = static_cast<std::size_t>(header.blocks[to - Metadata::chunk_base(to) - 1].type);
    if (type >= format::kBlockTypeCount || base_.blocks[type].empty()) return;
    const Block content = image_.look(base_.blocks[type][record.value % base_.blocks[type].size()]);
    if (!(record.how & kMirrorOnly)) image_.edit(to) = content;
    if (!(record.how & kPrimaryOnly)) image_.edit(Metadata::mirror_of(to)) = content;
    touched_[to] = record.how;
  }

  std::uint64_t block_by(std::uint64_t value) const {
    const auto& list = base_.blocks[(value >> 16 & 0xff) % format::kBlockTypeCount];
    const auto distance = static_cast<std::int64_t>(static_cast<std::int8_t>(value >> 24));
    const std::uint64_t block = list.empty() ? image_.block_count() : list[(value & 0xffff) % list.size()].value;
    return block + static_cast<std::uint64_t>(distance);
  }

  std::uint64_t value_of(const Record& record, BlockNumber self, std::uint64_t now) const {
    const std::uint64_t value = record.value, flags = value >> 32 & 0xfff;
    switch (record.value_kind) {
      case ValueKind::kLiteral: return value;
      case ValueKind::kAdd: return now + value;
      case ValueKind::kXor: return now ^ value;
      case ValueKind::kInteresting: return kInteresting[value % std::size(kInteresting)];
      case ValueKind::kBlock: return block_by(value);
      case ValueKind::kEntry: return block_by(value) << format::kEntryBlockShift | flags;
      case ValueKind::kDataEntry: return (value & 0xffffffff) % (image_.block_count() + 2) << format::kEntryBlockShift | flags;
      case ValueKind::kSelf: return self.value + value;
      case ValueKind::kSelfEntry: return self.value << format::kEntryBlockShift | flags;
      case ValueKind::kOther:
      case ValueKind::kCount: break;
    }
    return value;
  }

  void seal_journal() {
    const auto& superblock = image_.look(format::kSuperblockPrimary).as<format::Superblock>();
    const std::uint64_t seed = journal_seed(superblock);
    for (const BlockNumber copy : {format::kJournalChunk, Metadata::mirror_of(format::kJournalChunk)}) {
      auto* const area = image_.edit(copy).bytes;
      format::JournalHeader header;
      std::memcpy(&header, area, sizeof header);
      const std::uint64_t payload = std::min(header.payload_bytes, format::kJournalPayloadBytes);
      header.check = journal_crc(seed, header, image_.bytes().subspan(byte_offset(copy) + sizeof header, payload));
      std::memcpy(area, &header, sizeof header);
    }
  }

  BaseImage& base_;
  WorkingImage& image_;
  std::map<BlockNumber, std::uint8_t> touched_;  // metadata blocks, with the last edit's `how`
  std::map<BlockNumber, std::uint8_t> chunks_;
  bool superblock_touched_ = false, superblock_sealed_ = true;
  bool journal_touched_ = false, journal_sealed_ = true;
  std::size_t last_field_ = 0, last_element_ = 0;
};

}  // namespace

void apply_edits(BaseImage& base, const Input& input) {
  Editor editor(base);
  for (const Record& record : input.records)
    if (record.is_edit()) editor.apply(record);
  editor.seal();
}

void rebuild_reverse_map(BaseImage& base) {
  WorkingImage& image = *base.work;
  std::vector<ReverseRecord> records;
  std::vector<BlockNumber> leaves, free;
  for (const BlockNumber chunk : base.chunks) {
    const ChunkHeader header = image.look(chunk).as<ChunkHeader>();
    for (std::uint64_t i = 0; i < format::kChunkPayload; ++i) {
      const BlockNumber block = chunk + 1 + i;
      const BlockDescriptor& descriptor = header.blocks[i];
      if (descriptor.type == BlockType::kFree) free.push_back(block);
      if (descriptor.type == BlockType::kReverseLeaf) {
        leaves.push_back(block);
        const auto& leaf = image.look(block).as<format::ReverseLeaf>();
        for (std::size_t n = 0; n < format::kRecordsPerLeaf; ++n)
          if ((leaf.used[n / 64] >> n % 64 & 1) != 0 && leaf.records[n].kind != format::RecordKind::kTree) records.push_back(leaf.records[n]);
      } else if (static_cast<std::uint8_t>(descriptor.type) < format::kBlockTypeCount && holds_references(descriptor.type) &&
                 descriptor.level <= format::kMaximumLevel && (descriptor.type != BlockType::kMapNode || descriptor.level != 0)) {
        const auto found = records_of(block, descriptor.type, descriptor.level, image.look(block));
        records.insert(records.end(), found.begin(), found.end());
      }
    }
  }
  std::erase_if(records, [&](const ReverseRecord& r) {  // what no leaf may say
    return r.length_blocks == 0 || r.first >= image.block_count() || r.length_blocks > image.block_count() - r.first;
  });
  std::ranges::sort(records, {}, [](const ReverseRecord& r) { return key_of(r); });
  const auto same = std::ranges::unique(records, {}, [](const ReverseRecord& r) { return key_of(r); });
  records.erase(same.begin(), same.end());
  const std::size_t wanted = (records.size() + format::kRecordsPerLeaf - 1) / format::kRecordsPerLeaf;
  while (leaves.size() < wanted && !free.empty()) {
    leaves.push_back(free.back());
    free.pop_back();
  }
  if (leaves.size() < wanted) return;

  std::set<BlockNumber> chunks;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const BlockNumber block = leaves[i], chunk = Metadata::chunk_base(block);
    Block content{};
    auto& leaf = content.as<format::ReverseLeaf>();
    for (std::size_t n = 0; n < format::kRecordsPerLeaf && i * format::kRecordsPerLeaf + n < records.size(); ++n) {
      leaf.records[n] = records[i * format::kRecordsPerLeaf + n];
      leaf.used[n / 64] |= 1ull << n % 64;
    }
    image.edit(block) = content;
    image.edit(Metadata::mirror_of(block)) = content;
    BlockDescriptor descriptor{};
    if (leaf.used[0] != 0) descriptor.type = BlockType::kReverseLeaf;
    if (leaf.used[0] != 0) descriptor.crc = block_crc(block, descriptor, content);
    for (const BlockNumber copy : {chunk, Metadata::mirror_of(chunk)}) image.edit(copy).as<ChunkHeader>().blocks[block - chunk - 1] = descriptor;
    chunks.insert(chunk);
  }
  for (const BlockNumber chunk : chunks)
    for (const BlockNumber copy : {chunk, Metadata::mirror_of(chunk)}) {
      auto& header = image.edit(copy).as<ChunkHeader>();
      header.crc = chunk_header_crc(header);
    }
}

}  // namespace daxcow::fuzz
